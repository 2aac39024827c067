"""Exact planners as named systems."""
