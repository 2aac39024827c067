"""Agents: methods for language models that act in several turns."""
