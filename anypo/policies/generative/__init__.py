"""Policies that generate an action step by step: every inner step is a decision of its own."""
