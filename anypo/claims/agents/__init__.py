"""Claims of the systems for agents."""
