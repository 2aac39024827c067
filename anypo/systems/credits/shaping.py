"""Methods that change a group's rewards or weight by what is in its answers: lengths, flaws."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shaping.outcomes import Flawed
from anypo.credit.weights import LengthAdvantage
from anypo.filter import EquationCheck, Screen
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.trusts.clips import Clip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate


@system("adora", title="ADORA", paper="arXiv:2602.10019", base="grpo")
def adora() -> Algorithm:
    """One weight per group on GRPO's advantages, from the group's own lengths: 1 where the longest right answer is
    longer than the mean wrong one (longer reasoning pays now) or nothing is right, 0.1 otherwise. Signs and ratios
    inside a group never change. The released stronger variant is ``credit.group_weight.finished=true`` with
    ``credit.shaping='[{part: difficulty_length}]'``."""
    return grpo().replace(credit=Pipeline(scale=StandardDeviation(), group_weight=LengthAdvantage()))


@system(
    "fapo",
    title="Flawed-Aware Policy Optimization",
    paper="arXiv:2510.22543",
    base="grpo",
    excuses={"common offset": "compares rewards with absolute levels: right from 1 on"},
)
def fapo() -> Algorithm:
    """Three rewards: +1 for a right answer, 0 for a right answer with a wrong step in it, -1 for a wrong one; then GRPO.
    A flawed answer is reinforced while failures outnumber clean solutions and penalised afterwards, prompt by prompt,
    without a schedule. Flaws are found here by recalculating the equations in right answers; any signal that sets the reward
    component ``flawed`` can take its place (the paper trains a generative judge). Where answers show no equations nothing is flawed,
    and what acts is the clip's higher upper side, 0.28, in 16 minibatches per batch, and the mean over tokens: rewards of +1 and -1
    have GRPO's advantages. Clip (with a bound of 10 on what a bad answer can pull) and minibatches are those of verl's recipe for it
    (run_fapo_7b.sh), which also charges overlong answers."""
    return Algorithm(
        filter=Screen(signals=(EquationCheck(),)),
        credit=Pipeline(shaping=(Flawed(),), scale=StandardDeviation()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28, dual=10.0)),
        update=GradientUpdate(minibatches_per_epoch=16),
    )
