"""Generate: how a trajectory is proposed."""

from anypo.generate.base import Generate, Independent, World

__all__ = ["Generate", "Independent", "World"]
