"""Baselines: the methods that all others are compared with."""
