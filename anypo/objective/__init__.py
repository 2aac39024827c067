"""Objective: how advantages become a loss. Importing this package registers every part of the room."""

from anypo.objective.aggregates import ConstantLength, GroupMean, SequenceMean, SequenceSum, TokenMean
from anypo.objective.base import Aggregate, Correction, Objective, Ratio, Regulariser, Trust
from anypo.objective.corrections import Banded, SelfNormalised, Truncated
from anypo.objective.discriminative import Discriminative, ForwardKL
from anypo.objective.mix import Mix
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.preference.contrastive import Contrastive
from anypo.objective.preference.pairwise import Pairwise
from anypo.objective.ratios import (
    MinimumPrefix,
    PrefixProduct,
    ScoreFunction,
    SequenceRatio,
    SequenceTokenRatio,
    TanhRatio,
    TokenRatio,
)
from anypo.objective.regularisers.kl_control import KLControl
from anypo.objective.regularisers.mirror import MirrorDescent
from anypo.objective.regularisers.terms import KL, Controlled, Entropy, KLConvex, Likelihood, RatioVariance
from anypo.objective.supervised import Annealed, Blend, Mixing, Routed, Summed, Supervised
from anypo.objective.trusts.adaptive import BalancedClip, EssCap
from anypo.objective.trusts.bounded import BoundedRatio, Tapered
from anypo.objective.trusts.clips import Clip, RecentredClip, SigmoidGate, SoftClip, Unclipped
from anypo.objective.trusts.covariance import ClipCov, KLCov
from anypo.objective.trusts.entropy import HeterogeneousClip
from anypo.objective.trusts.hazard import Hazard
from anypo.objective.trusts.masks import Mask, OneSide, Region, Ring, TwoSide
from anypo.parts import load

load(__name__)

__all__ = [
    "KL", "Aggregate", "Annealed", "BalancedClip", "Banded", "Blend", "BoundedRatio", "Clip", "ClipCov", "ConstantLength",
    "Contrastive", "Controlled", "Correction", "Discriminative", "Entropy", "EssCap", "ForwardKL", "GroupMean", "Hazard",
    "HeterogeneousClip", "KLControl", "KLConvex", "KLCov", "Likelihood", "Mask", "MinimumPrefix", "MirrorDescent", "Mix", "Mixing",
    "Objective", "OneSide", "Pairwise", "PolicyGradient", "PrefixProduct", "Ratio", "RatioVariance", "RecentredClip", "Region",
    "Regulariser", "Ring", "Routed", "ScoreFunction", "SelfNormalised", "SequenceMean", "SequenceRatio", "SequenceSum",
    "SequenceTokenRatio", "SigmoidGate", "SoftClip", "Summed", "Supervised", "TanhRatio", "Tapered", "TokenMean", "TokenRatio",
    "Truncated", "Trust", "TwoSide", "Unclipped",
]  # fmt: skip
