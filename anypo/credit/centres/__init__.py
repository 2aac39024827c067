"""Centres: the baseline that is subtracted from a reward."""
