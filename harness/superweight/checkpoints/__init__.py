"""Models as files: what is known of them, where they come from, what stands in them. No torch."""
