"""Text tasks: problems in words, verifiers of answers, and where both come from."""
