"""Granularity: which part of a trajectory an advantage belongs to."""
