"""Libraries: what is learned in words, on the run's shelf. Each has `text()`, what a policy is shown of it (empty for nothing)."""
