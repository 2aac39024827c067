"""Systems that are several algorithms in a row."""
