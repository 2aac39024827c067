"""Methods that keep a step near the old policy in another way than PPO's clip: searched bounds, masks, variance, targets."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.regularisers.terms import Controlled, RatioVariance
from anypo.objective.trusts.adaptive import BalancedClip
from anypo.objective.trusts.bounded import BoundedRatio
from anypo.objective.trusts.clips import Unclipped
from anypo.objective.trusts.masks import Mask, OneSide
from anypo.replay import Buffer, Delayed
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.multipliers import DualAscent


@system("bapo", title="Balanced Policy Optimization with Adaptive Clipping", paper="arXiv:2510.18927", base="grpo")
def bapo() -> Algorithm:
    """GRPO whose clip bounds are searched anew for every update: starting from ratios 0.6 and 1.2, first the lower bound rises (to
    at most 0.9, in steps of 0.05), then the upper one (to at most 3.0, in steps of 0.1), until positive advantages contribute as
    much as negative ones. Negative advantages are also clipped at 3 (dual clip); mean over all tokens. Two passes of four
    minibatches, so that the last update is eight steps behind the data. Order, steps and passes are those of the released example,
    bounds of its README (WooooDyy/BAPO 7287044, recipe/bapo/run_bapo_example.sh)."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=BalancedClip()),
        update=GradientUpdate(epochs=2, minibatches_per_epoch=4),
    )


@system("rec", title="REC-OneSide-NoIS", paper="arXiv:2509.24203", base="reinforce")
def rec() -> Algorithm:
    """Group-relative REINFORCE off-policy: reward minus group mean times the gradient of log pi, with no importance weight, for all
    tokens but those that have already moved more than 20 % from the policy that sampled them, in the direction of their advantage. The
    mask is what stabilises; with `objective.trust.weight=ratio` it has exactly the gradient of PPO's clip. Other regions
    (two_side, ring), weights (truncated, advantage) and sequence-level tests are fields of the same part. Mean over all tokens. The
    paper's rollouts come from a policy that is renewed every 20 steps; here they are ten steps old, the mean of that."""
    return Algorithm(
        replay=Delayed(lag=10),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"), trust=Mask(region=OneSide(low=0.2, high=0.2))
        ),
    )


@system("r2vpo", title="Ratio-Variance Regularized Policy Optimization", paper="arXiv:2601.03320", base="grpo")
def r2vpo() -> Algorithm:
    """No clip: E[r A] under the constraint E[(r - 1)^2] <= delta, the variance of the ratio to the policy that sampled, by a
    multiplier lambda that rises and falls with the violation. Every token keeps a gradient, r (A - 2 lambda (r - 1)), and may
    move until r = 1 + A / (2 lambda): the further, the better it was. Old data brakes itself and is reused: half of every batch comes
    from the last four steps, and a batch is cut into four minibatches (the paper reuses a few recent steps; both numbers are guesses).
    GRPO's advantages, mean over tokens. lambda starts at 0.04; delta 0.02 and the multiplier's rate 0.1 are not published."""
    return Algorithm(
        replay=Buffer(fraction=0.5, window=4),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=Unclipped(),
            regularise=(
                Controlled(
                    of=RatioVariance(coefficient=1.0, ratio=TokenRatio(denominator="behaviour")),
                    limit=0.02,
                    multiplier=DualAscent(initial=0.04, rate=0.1),
                ),
            ),
        ),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system(
    "gbpo",
    title="Group Bounded Policy Optimization",
    paper="arXiv:2604.18578",
    base="grpo",
    excuses={"on-policy": "aims at the ratio 1 for responses at their group's median, whatever their advantage"},
)
def gbpo() -> Algorithm:
    """The bounded-ratio loss |A| |r - r*| on group advantages. Responses above the median of their group have the target ratio 1.2,
    those below 0.8, and those at the median 1: where more than half of a group is right, right answers are held and wrong
    ones lowered. Mean over all tokens; five passes over each batch, every prompt a minibatch of its own. Median, passes and
    minibatches are those of the released code (bounded-ratio-rl/bounded_ratio_rl 64ff1cd)."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=BoundedRatio(threshold="quantile")),
        update=GradientUpdate(epochs=5, minibatches_per_epoch=1024),
    )
