"""Generate: how a trajectory is proposed."""

from anypo.generate.adaptive import AdaptiveTemperature
from anypo.generate.auxiliary import WithAuxiliary
from anypo.generate.base import Generate, Independent, World
from anypo.generate.confidence import ConfidenceForks
from anypo.generate.demonstrations import Anchored, Interventions, OneToken
from anypo.generate.experts import WithExperts
from anypo.generate.greedy import WithGreedy
from anypo.generate.gym import EnvironmentSteps
from anypo.generate.labels import LabelVectors
from anypo.generate.masked import LearnedMask
from anypo.generate.modes import Modes
from anypo.generate.next_sequence import NextSequence
from anypo.generate.rollback import Rollback
from anypo.generate.rounds import AdaptiveRounds
from anypo.generate.shifted import ShiftedTargets
from anypo.generate.trees import EntropyForks, ReRolled, SegmentTree, Vine
from anypo.generate.windowed import Windowed

__all__ = [
    "AdaptiveRounds", "AdaptiveTemperature", "Anchored", "ConfidenceForks", "EntropyForks", "EnvironmentSteps", "Generate",
    "Independent", "Interventions", "LabelVectors",
    "LearnedMask", "Modes", "NextSequence", "OneToken", "ReRolled", "Rollback", "SegmentTree", "ShiftedTargets", "Vine", "Windowed",
    "WithAuxiliary", "WithExperts", "WithGreedy", "World",
]  # fmt: skip
