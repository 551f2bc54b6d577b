"""Find super weights from one forward pass (section 3.1 of the paper)."""
