"""Claims of the systems that change what is sampled, and how much of it."""
