"""Objective: how advantages become a loss."""

from anypo.objective.base import Objective
from anypo.objective.policy_gradient import PolicyGradient

__all__ = ["Objective", "PolicyGradient"]
