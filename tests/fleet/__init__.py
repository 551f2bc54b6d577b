"""Many models: what a fleet.toml says, what becomes of each model, and the index of all of them."""
