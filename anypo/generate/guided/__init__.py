"""Guided: rollouts beside, after or inside what an expert wrote."""
