"""Methods that centre and scale rewards in another way than GRPO: by the median, by a fitted density, one by one."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.groups import GroupMedian
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Averaged, Named, StandardDeviation, Weighted, Whiten
from anypo.credit.scales import BetaDensity, MedianDeviation
from anypo.credit.select.rollouts import DropPivot
from anypo.objective.aggregates import SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.trusts.clips import Clip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


@system("mc-grpo", title="Median-Centered GRPO", paper="arXiv:2601.22582", base="grpo")
def mc_grpo() -> Algorithm:
    """A median baseline for tiny groups, which one odd reward cannot move. One rollout more than the budget is
    generated; the advantage is the reward minus the group's (lower) median, divided by the median absolute deviation
    plus 1e-3; one rollout at the median is then dropped, so the backward cost is that of the budget.
    With binary rewards the deviation is 0 whenever more than half of the group agree, and the published floor makes
    advantages of 1000, which gradient clipping hides. ``--set credit.scale=std`` is the repaired form: a median baseline
    alone."""
    return grpo().replace(
        control=Uniform(samples=9),
        credit=Pipeline(centre=GroupMedian(), scale=MedianDeviation(), select=(DropPivot(),)),
    )


@system(
    "bnpo",
    title="Beta Normalization Policy Optimization",
    paper="arXiv:2506.02864",
    base="grpo",
    excuses={"common offset": "reads rewards as success rates in [0, 1]"},
)
def bnpo() -> Algorithm:
    """Divides the centred reward by a Beta density fitted to the success rates of the batch's prompts instead of by the
    group's standard deviation; its exponents are those that minimise the variance of the normalised advantage, refitted
    every batch. Constant density is REINFORCE with the group mean, exponents of 3/2 are pi/8 times GRPO. With several
    reward components (``--set credit.components=named``) each is treated alone and the advantages averaged. Rewards in
    [0, 1], sum over tokens."""
    return Algorithm(
        credit=Pipeline(scale=BetaDensity(), combine=Averaged()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28, dual=10.0), aggregate=SequenceSum()),
    )


@system("gdpo", title="Group reward-Decoupled Normalization Policy Optimization", paper="arXiv:2601.05242", base="grpo")
def gdpo() -> Algorithm:
    """Several rewards are normalised inside the group one by one, then summed with the weights that the task gives them,
    and the sum is whitened over the batch. A reward of weight 0 is measured and does not count. GRPO sums first, so different
    reward vectors with equal sums get equal advantages, and a weight competes with the variance of its reward. Whitening keeps
    the scale independent of the number of rewards (``over=rows`` weighs long responses more, as one of the two released
    implementations does). A reward can be made to count only where another is earned (shaping ``conditioned``). Where a task pays
    one thing alone it is GRPO whitened over the batch."""
    return grpo().replace(
        credit=Pipeline(
            components=Named(), scale=StandardDeviation(eps=1e-4), combine=Weighted(), normalise=Whiten(eps=1e-4)
        )
    )
