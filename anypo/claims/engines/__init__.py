"""Claims of the systems that change how a step is carried out."""
