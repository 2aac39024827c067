"""GRPO and the group-relative methods that became baselines, with their published defaults.

Sizes of a step (prompts, rollouts, learning rate) are those of the library, as in `anypo.systems.baselines.reinforcement`; into how
many optimiser steps a batch is cut belongs to the method, for without several every importance ratio is 1.
"""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shaping.outcomes import Overlong
from anypo.filter import DropDegenerate, Screen
from anypo.objective.aggregates import ConstantLength, SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import SequenceRatio
from anypo.objective.trusts.clips import Clip, SoftClip
from anypo.systems.registry import system
from anypo.update import GradientUpdate


@system("grpo", title="Group Relative Policy Optimization", paper="arXiv:2402.03300", base="ppo")
def grpo() -> Algorithm:
    """Replaces PPO's critic by the group: the advantage of a rollout is its reward minus the mean of its group, divided by
    the group's standard deviation, equal for all its tokens. Clipped token ratio, mean over tokens then over rollouts.
    The paper adds 0.04 times a k3 estimate of the KL to the initial model, which most later work leaves out, as here:
    --set objective.regularise='[{part: kl, coefficient: 0.04}]' --set update.reference=frozen puts it back."""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(aggregate=SequenceMean()))


@system("dr-grpo", title="GRPO Done Right", paper="arXiv:2503.20783", base="grpo")
def dr_grpo() -> Algorithm:
    """GRPO without its two biases: no division by the group's standard deviation (which over-weighs very easy and very hard
    prompts) and no division by a response's own length (which favours short right and long wrong answers). Token surrogates are
    summed and divided by rollouts x a constant length, the generation budget (of a run: generate.max_new, unless
    objective.aggregate.length is set)."""
    return Algorithm(credit=Pipeline(), objective=PolicyGradient(aggregate=ConstantLength()))


@system("dapo", title="Decoupled Clip and Dynamic Sampling Policy Optimization", paper="arXiv:2503.14476", base="grpo")
def dapo() -> Algorithm:
    """GRPO with four changes: the clip is wider upwards (0.2 below, 0.28 above), so that unlikely tokens can grow; prompts whose
    rollouts all score alike are replaced by generating again, up to ten times; the loss is a mean over all tokens; and answers
    that come within 4096 tokens of the 20480 limit lose up to 1 point, linearly (set credit.shaping.0.limit and .buffer to fit
    generate.max_new). 16 minibatches per batch, as in the released recipe (512 prompts, 32 at a time)."""
    return Algorithm(
        filter=Screen(survival=(DropDegenerate(),), rounds=10),
        credit=Pipeline(shaping=(Overlong(limit=20480, buffer=4096),), scale=StandardDeviation()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28)),
        update=GradientUpdate(minibatches_per_epoch=16),
    )


@system("gspo", title="Group Sequence Policy Optimization", paper="arXiv:2507.18071", base="grpo")
def gspo() -> Algorithm:
    """GRPO whose importance ratio belongs to the response, as the reward does: the geometric mean of its token ratios. Whole
    responses are clipped, in a band of 3e-4 below and 4e-4 above 1; mean over responses; four minibatches per batch (Sec. 5.1). The
    deviation of a mean of L log-ratios falls as 1 / sqrt(L), and the paper's responses have thousands of tokens: for one of L the
    band is sqrt(4096 / L) times as wide here, or else half of all short answers would be clipped (--set objective.trust.length=null is
    the same band for all; 4096 is this library's reading of the paper's lengths)."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(
            ratio=SequenceRatio(), trust=Clip(low=3e-4, high=4e-4, length=4096), aggregate=SequenceMean()
        ),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system("cispo", title="Clipped IS-weight Policy Optimization", paper="arXiv:2506.13585", base="grpo")
def cispo() -> Algorithm:
    """Clips the importance weight instead of the update: REINFORCE on group advantages, every token weighted by its ratio, cut off
    at 1.2 and detached, so no token ever loses its gradient. No lower bound; mean over all tokens; 16 minibatches per batch, the
    paper's number of updates on one generation. The paper tunes the upper bound and does not print it: 1.2 is that of verl's
    script for it (clip_ratio_high=0.2, clip_ratio_low=10); TRL documents a bound of 5 (--set objective.trust.high=4)."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=SoftClip(low=1.0, high=0.2)),
        update=GradientUpdate(minibatches_per_epoch=16),
    )


@system(
    "lite-ppo",
    title="Lite PPO (Tricks or Traps)",
    paper="arXiv:2508.08221",
    base="ppo",
    excuses={
        "reward offset": "divides by the deviation of raw rewards over all prompts, which offsets between prompts enter"
    },
)
def lite_ppo() -> Algorithm:
    """PPO's clipped surrogate without a critic and two choices on top: rewards are centred by their group but divided by one
    standard deviation over the whole batch, so easy and hard prompts are not blown up; and the loss is a mean over all
    tokens. No KL, symmetric clip. (--set credit.scale.of=centred divides by the deviation of the centred rewards instead.)"""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation(scope="batch", ddof=1, eps=1e-8)), objective=PolicyGradient()
    )
