"""Rollouts: methods that change what is sampled, and how much of it."""
