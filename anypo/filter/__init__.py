"""Filter: which signals a trajectory gets, and which trajectories survive."""

from anypo.filter.base import DropCancelled, DropDegenerate, DropTruncated, Filter, FirstShare, Screen, Signal, Survival
from anypo.filter.consensus import Confidence, IntervalConsensus, MajorityVote
from anypo.filter.flaws import EquationCheck
from anypo.filter.guides import RightGuided
from anypo.filter.judge import Judge
from anypo.filter.propagated import Propagated
from anypo.filter.route import SuccessGate
from anypo.parts import load

load(__name__)

__all__ = [
    "Confidence", "DropCancelled", "DropDegenerate", "DropTruncated", "EquationCheck", "Filter", "FirstShare", "IntervalConsensus",
    "Judge", "MajorityVote", "Propagated", "RightGuided", "Screen", "Signal", "SuccessGate", "Survival",
]  # fmt: skip
