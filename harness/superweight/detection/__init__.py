"""From one forward pass to super weights (section 3.1 of the paper)."""
