"""The forms in which quantised models are released: how each is recognised, unpacked and called."""
