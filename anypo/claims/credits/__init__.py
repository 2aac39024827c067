"""Claims of the systems that change how rewards become advantages."""
