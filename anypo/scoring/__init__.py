"""Evaluate: how good a policy is on problems it never trained on. A task's scorer says what is measured, and in which unit."""

from anypo.scoring.base import Evaluation, Scorer, scorer_of
from anypo.scoring.heldout import Heldout
from anypo.scoring.mixture import Mixed
from anypo.scoring.pairs import Pairs
from anypo.scoring.returns import Returns
from anypo.scoring.scores import majority_at_k, mean_interval, pass_at_k, wilson

__all__ = [
    "Evaluation", "Heldout", "Mixed", "Pairs", "Returns", "Scorer", "majority_at_k", "mean_interval", "pass_at_k", "scorer_of",
    "wilson",
]  # fmt: skip
