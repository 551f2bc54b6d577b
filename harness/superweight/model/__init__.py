"""Load, capture and edit a live model."""
