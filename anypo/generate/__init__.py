"""Generate: how a trajectory is proposed."""

from anypo.generate.base import Generate, Independent, World
from anypo.generate.rounds import AdaptiveRounds
from anypo.generate.trees import EntropyForks, ReRolled, SegmentTree, Vine

__all__ = [
    "AdaptiveRounds", "EntropyForks", "Generate", "Independent", "ReRolled", "SegmentTree", "Vine", "World",
]  # fmt: skip
