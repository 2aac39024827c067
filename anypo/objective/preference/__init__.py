"""Preference: losses over pairs and sets of responses to one prompt."""
