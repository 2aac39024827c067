"""Objective: how advantages become a loss. Importing this package registers every part of the room."""

from anypo.objective import (
    adaptive,
    aggregates,
    contrastive,
    corrections,
    covariance,
    entropy,
    masks,
    ratios,
    regularisers,
    supervised,
    trusts,
)
from anypo.objective.base import Aggregate, Correction, Objective, Ratio, Regulariser, Trust
from anypo.objective.policy_gradient import PolicyGradient

__all__ = [
    "Aggregate", "Correction", "Objective", "PolicyGradient", "Ratio", "Regulariser", "Trust", "adaptive", "aggregates",
    "contrastive", "corrections", "covariance", "entropy", "masks", "ratios", "regularisers", "supervised", "trusts",
]  # fmt: skip
