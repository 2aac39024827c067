"""Objectives: methods that change how advantages become a loss."""
