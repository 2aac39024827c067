"""Shaping: rewards are changed before any baseline sees them."""
