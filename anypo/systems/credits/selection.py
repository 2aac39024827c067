"""Methods that train on some of the rollouts or tokens only."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.probe import QualityHead
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.rollouts import AdvantageVariance, Distinct, UncertainTokens
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
    """Drops rollouts that oppose a nearly identical one (a right and a wrong answer whose fine-grained scores differ by
    less than 0.1): pushed in opposite directions, they cancel on what they share. And gives a group without a right
    answer the problem's worked solution as a further member, so that hopeless prompts have a gradient. Advantages are
    those of the full group; the mean is over kept tokens. The score is a head on the policy's hidden states, refitted
    every step to predict success (the paper asks a language model)."""
    return Algorithm(
        generate=Anchored(),
        credit=Pipeline(shaping=(QualityHead(),), scale=StandardDeviation(), select=(Distinct(),)),
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
