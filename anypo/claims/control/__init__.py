"""Claims of the systems for control."""
