"""Claims of the systems that change how advantages become a loss."""
