"""Preference: methods that learn from comparisons, or relative to a reference."""
