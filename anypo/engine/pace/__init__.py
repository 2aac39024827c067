"""Pace: how producing rollouts and learning from them take turns."""

from anypo.engine.pace.base import Pace
from anypo.engine.pace.synchronous import Synchronous

__all__ = ["Pace", "Synchronous"]
