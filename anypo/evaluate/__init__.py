"""Evaluate: how good a policy is on problems it never trained on. A task's scorer says what is measured, and in which unit."""

from anypo.evaluate.base import Evaluation, Scorer, scorer_of
from anypo.evaluate.heldout import Heldout
from anypo.evaluate.pairs import Pairs
from anypo.evaluate.returns import Returns
from anypo.evaluate.scores import majority_at_k, mean_interval, pass_at_k, wilson

__all__ = [
    "Evaluation", "Heldout", "Pairs", "Returns", "Scorer", "majority_at_k", "mean_interval", "pass_at_k", "scorer_of", "wilson",
]  # fmt: skip
