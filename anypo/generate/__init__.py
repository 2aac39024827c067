"""Generate: how a trajectory is proposed."""

from anypo.generate.base import Generate, Independent, World
from anypo.generate.groups.auxiliary import WithAuxiliary
from anypo.generate.groups.greedy import WithGreedy
from anypo.generate.groups.labels import LabelVectors
from anypo.generate.groups.masked import LearnedMask
from anypo.generate.groups.modes import Modes
from anypo.generate.groups.rounds import AdaptiveRounds
from anypo.generate.groups.shifted import ShiftedTargets
from anypo.generate.groups.temperature import AdaptiveTemperature
from anypo.generate.groups.windowed import Windowed
from anypo.generate.guided.demonstrations import Anchored, Interventions, OneToken
from anypo.generate.guided.described import Described
from anypo.generate.guided.experts import WithExperts, Worked
from anypo.generate.guided.fates import Beside, Contexts, Imitated, Join, Regroup, Rescue
from anypo.generate.guided.guides import Examples, Hints, Prefixes
from anypo.generate.guided.guiding import Guided
from anypo.generate.guided.library import WithLibrary
from anypo.generate.guided.next_sequence import NextSequence
from anypo.generate.guided.reset import DatasetReset
from anypo.generate.guided.rollback import Rollback
from anypo.generate.guided.triggers import Always, ByLot, Failing, Hard
from anypo.generate.guided.written import Shortest, Written
from anypo.generate.repaired.corrected import Corrected
from anypo.generate.repaired.faults import Comparison, Verdicts
from anypo.generate.repaired.rethinking import Rethinking
from anypo.generate.repaired.retried import Retried
from anypo.generate.repaired.teachers import ByModel, BySolution
from anypo.generate.trees.confidence import ConfidenceForks
from anypo.generate.trees.doubling import DoublingTree
from anypo.generate.trees.lookahead import LookaheadTree
from anypo.generate.trees.segments import EntropyForks, ReRolled, SegmentTree, Vine
from anypo.generate.watched.pooled import Pooled
from anypo.generate.watched.pruned import Pruned
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.parts import load

load(__name__)

__all__ = [
    "AdaptiveRounds", "AdaptiveTemperature", "Always", "Anchored", "Beside", "ByLot", "ByModel", "BySolution",
    "Comparison", "ConfidenceForks", "Contexts", "Corrected", "DatasetReset", "Described", "DoublingTree", "EntropyForks",
    "EnvironmentSteps", "Examples", "Failing", "Generate", "Guided", "Hard", "Hints", "Imitated", "Independent",
    "Interventions", "Join", "LabelVectors", "LearnedMask", "LookaheadTree", "Modes", "NextSequence",
    "OneToken", "Pooled", "Prefixes", "Pruned", "ReRolled", "Regroup", "Rescue", "Rethinking", "Retried",
    "Rollback", "SegmentTree", "ShiftedTargets", "Shortest", "Verdicts", "Vine", "Windowed", "WithAuxiliary",
    "WithExperts", "WithGreedy", "WithLibrary", "Worked", "World", "Written",
]  # fmt: skip
