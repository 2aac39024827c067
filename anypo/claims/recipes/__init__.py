"""Claims of recipes."""
