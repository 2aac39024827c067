"""Methods that credit parts of a rollout by fresh continuations, or rollouts by the sets they belong to."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.granularity.branches import ChainValues, TreeValues
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Whiten
from anypo.credit.select.rollouts import OwnDecisions, UnlikelyTokens
from anypo.credit.sets import SetScore
from anypo.generate import ReRolled, SegmentTree
from anypo.objective.aggregates import TokenMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.terms import KL, Entropy
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("polychromic", title="Polychromic objectives", paper="arXiv:2509.25424", base="ppo")
def polychromic() -> Algorithm:
    """Scores sets of rollouts: mean reward times the share of distinct members. A rollout's advantage is the mean over
    all sets of four that contain it, minus the mean over all sets, whitened over the batch; an unsuccessful but
    different rollout is credited too. Texts are distinct that share less than 60 % of their n-grams (the paper: clusters of
    meaning); ``credit.components.same=answer`` goes by the extracted answer. All 70 sets of a group of eight are used, where the
    paper draws four: the same expectation with less variance. ``generate=vine`` with ``credit.select=[{part: window, size: 5}]``
    branches from states along a rollout, as the paper does in environments it can reset; decisions outside such windows are not
    trained on, where the paper gives them GAE's advantages: there is no value head. PPO's loss with entropy 0.01 and KL 0.01 to
    the initial policy, two epochs."""
    return Algorithm(
        credit=Pipeline(components=SetScore(size=4), normalise=Whiten()),
        objective=PolicyGradient(regularise=(Entropy(coefficient=0.01), KL(coefficient=0.01))),
        update=GradientUpdate(epochs=2, reference=FrozenReference()),
    )


@system("spo-segment", title="Segment Policy Optimization (chain)", paper="arXiv:2505.23564", base="ppo")
def spo_segment() -> Algorithm:
    """Advantages per segment without a critic. A rollout is cut after every five tokens of probability below 0.9; the
    state at every cut is valued by nine fresh completions, and a segment's advantage is the value after it minus the
    value before it, so a rollout's advantages sum to its reward minus the prompt's value. Only tokens below 0.9 are
    trained, where the text could have gone elsewhere; the mean is over those."""
    return Algorithm(
        generate=ReRolled(),
        credit=Pipeline(granularity=ChainValues(), select=(UnlikelyTokens(),)),
        objective=PolicyGradient(aggregate=TokenMean(), regularise=(KL(coefficient=1e-4),)),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("spo-tree", title="Segment Policy Optimization (tree)", paper="arXiv:2505.23564", base="spo-segment")
def spo_tree() -> Algorithm:
    """The tree form of segment advantages, in which the same rollouts serve generation and estimation: six rollouts of
    the prompt, each continued six times after every segment (6-6-6: up to 216 leaves). A leaf is worth its reward, an
    inner state the mean of its branches; a segment's advantage is its end's value minus its siblings' mean. Shared
    tokens are trained once."""
    return Algorithm(
        generate=SegmentTree(),
        credit=Pipeline(granularity=TreeValues(), select=(OwnDecisions(), UnlikelyTokens())),
        objective=PolicyGradient(aggregate=TokenMean(), regularise=(KL(coefficient=1e-4),)),
        update=GradientUpdate(reference=FrozenReference()),
    )
