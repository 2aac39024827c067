"""Filter: which signals a trajectory gets, and which trajectories survive."""

from anypo.filter.base import DropDegenerate, DropTruncated, Filter, Screen, Signal, Survival

__all__ = ["DropDegenerate", "DropTruncated", "Filter", "Screen", "Signal", "Survival"]
