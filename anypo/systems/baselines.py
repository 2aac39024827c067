"""The baselines of everything else."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.steps import StandardDeviation
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.systems.registry import system


@system("grpo", title="Group Relative Policy Optimization", paper="arXiv:2402.03300", base="ppo")
def grpo() -> Algorithm:
    """Replaces PPO's critic by the group: the advantage of a rollout is its reward minus the mean of its group, divided by
    the group's standard deviation, equal for all its tokens. Clipped token ratio, mean over tokens then over rollouts."""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(aggregate=SequenceMean()))
