"""A live model: its structure, and how it is loaded, captured and edited."""
