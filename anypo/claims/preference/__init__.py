"""Claims of the systems that learn from comparisons, or relative to a reference."""
