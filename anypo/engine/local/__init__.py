"""The embedded sampling engine: continuous batching, shared prefixes, forks and pauses, on the trainer's own weights."""

from anypo.engine.local.engine import LocalEngine, Stats
from anypo.engine.local.handle import Event, Handle, Observer

__all__ = ["Event", "Handle", "LocalEngine", "Observer", "Stats"]
