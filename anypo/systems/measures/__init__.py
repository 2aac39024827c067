"""Measures as named systems."""
