"""Evaluate: how good a policy is on problems it never trained on."""

from anypo.evaluate.heldout import Evaluation, evaluate
from anypo.evaluate.scores import majority_at_k, pass_at_k, wilson

__all__ = ["Evaluation", "evaluate", "majority_at_k", "pass_at_k", "wilson"]
