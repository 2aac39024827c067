"""Methods that train on some of the rollouts or tokens only."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.distinct import Distinct
from anypo.credit.select.rollouts import AdvantageVariance, UncertainTokens
from anypo.generate import Anchored
from anypo.objective.aggregates import TokenMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.systems.registry import system


@system(
    "dagrpo",
    title="Distinctiveness-Aware GRPO",
    paper="arXiv:2512.06337",
    base="grpo",
    excuses={"common offset": "compares rewards with absolute levels: right from 1 on"},
)
def dagrpo() -> Algorithm:
    """Drops rollouts that oppose only nearly identical ones: pushed in opposite directions, they cancel on what they share. And
    gives a group without a right answer the problem's worked solution as a further member, so that hopeless prompts have a
    gradient. Near is a distance of n-grams below three quarters of the mean between right and wrong answers of the group; the paper
    asks a language model for a fine-grained grade and does not give its threshold (the signal ``judge`` with weight 0
    and ``credit.select.0.distance=score``). Anchors are never dropped, and of right and wrong answers
    some are always kept. Advantages are those of the full group; the mean is over kept tokens."""
    return Algorithm(
        generate=Anchored(),
        credit=Pipeline(scale=StandardDeviation(), select=(Distinct(),)),
        objective=PolicyGradient(aggregate=TokenMean()),
    )


@system("d3s", title="Dynamic Dual-Level Down-Sampling", paper="arXiv:2509.22115", base="grpo")
def d3s() -> Algorithm:
    """Trains on the rollouts whose advantages vary most, chosen over the whole batch, and in them on the tokens with the
    largest |advantage| x entropy. Both shares relax over the run (rollouts 25 to 50 %, tokens 20 to 50 %; the paper
    gives the shape of the schedule, not these numbers). Advantages are GRPO's, from the full groups; the mean is over
    selected tokens."""
    return Algorithm(
        credit=Pipeline(
            scale=StandardDeviation(),
            select=(AdvantageVariance(first=0.25, last=0.5), UncertainTokens(first=0.2, last=0.5)),
        ),
        objective=PolicyGradient(aggregate=TokenMean()),
    )
