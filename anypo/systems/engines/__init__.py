"""Engines: methods that change how a step is carried out."""
