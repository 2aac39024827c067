"""Replay: what is kept and used again."""

from anypo.replay.base import OnPolicy, Replay

__all__ = ["OnPolicy", "Replay"]
