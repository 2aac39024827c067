"""Objectives that learn from another distribution over the next token: a teacher's, or one's own in another context."""
