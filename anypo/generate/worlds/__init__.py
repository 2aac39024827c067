"""Worlds: rollouts as experience in environments that are stepped."""
