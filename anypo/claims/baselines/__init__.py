"""Claims of the baselines."""
