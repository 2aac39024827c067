"""Methods that choose how many rollouts a prompt has, and which prompts."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import HardFocus, Uniform, ValueBudget
from anypo.credit.centres.generalist import LearnValue
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation, Whiten
from anypo.credit.shape.tokens import Novelty
from anypo.filter import DropDegenerate, Screen
from anypo.generate import AdaptiveRounds
from anypo.generate.groups.deepened import Deepened
from anypo.objective.aggregates import GroupMean
from anypo.objective.corrections import Truncated
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.regularisers.terms import KL
from anypo.objective.trusts.clips import Clip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate, PeriodicReference


@system("xrpo", title="XRPO", paper="arXiv:2510.06672", base="grpo")
def xrpo() -> Algorithm:
    """GRPO with the step's rollouts handed out in rounds to the prompts where one more shrinks the uncertainty of the
    mean reward most (plus an exploration bonus), and with right answers that the policy finds unlikely paid up to half
    as much again. Prompts without success are shown two solved examples of others when sampling; such rollouts are
    trained on the plain prompt, their ratio taken against the sampler that saw the examples. Prompts count alike in the loss, however
    many rollouts they were given. Numbers of base rollouts, examples and the novelty's weights are not published; these are ours."""
    return grpo().replace(
        generate=AdaptiveRounds(exemplars=2),
        credit=Pipeline(scale=StandardDeviation(), shape=(Novelty(),)),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), aggregate=GroupMean(inner="sequence")),
    )


@system("brorl", title="BroRL", paper="arXiv:2510.01180", base="reinforce")
def brorl() -> Algorithm:
    """Scales the rollouts per prompt (512) instead of the steps: what can lower the probability of right answers is the
    part of the vocabulary that was not sampled, and it vanishes as the group grows. Advantage: reward minus group mean,
    whitened over the batch; clip-higher; prompts without contrast are generated again; a small KL to a reference that is
    reset every 100 steps; truncated importance weights between sampler and trainer."""
    return Algorithm(
        control=Uniform(samples=512),
        filter=Screen(rounds=3, survival=(DropDegenerate(),)),
        credit=Pipeline(normalise=Whiten()),
        objective=PolicyGradient(
            trust=Clip(low=0.2, high=0.28), corrections=(Truncated(),), regularise=(KL(coefficient=1e-4),)
        ),
        update=GradientUpdate(reference=PeriodicReference(every=100)),
    )


@system("v-zero", title="V0, a generalist value model", paper="arXiv:2602.03584", base="grpo")
def v_zero() -> Algorithm:
    """Plans the step's rollouts with a value model that knows the policy only through what it did lately on other
    prompts: no weight changes when the policy does, and prompts that were never rolled out are told apart by their words. Rollouts
    go where failures and a success are expected together, at most twice the mean to one prompt (ours: without a limit a single prompt
    takes nearly all, and the paper's greedy choice gives equal prompts 98 and 2 of 128). Advantages are GRPO's over groups of
    unequal size; the model learns beside the policy (ranking and cross-entropy), where the paper trains it beforehand on other
    policies. It is also a baseline of its own, fit for single rollouts: ``credit.centre=generalist_value`` with
    ``credit.scale=none``."""
    return grpo().replace(control=ValueBudget(), credit=Pipeline(shaping=(LearnValue(),), scale=StandardDeviation()))


@system("drive", title="DRIVE", paper="arXiv:2511.06307", base="grpo")
def drive() -> Algorithm:
    """A curriculum for GRPO: first every problem with few rollouts, then phases on the problems with the lowest measured pass
    rates with 64 rollouts each, a smaller pool in every phase. Solved problems leave for good; a problem never solved
    stays, since with p near 1/64 a large group is what makes it informative. What the paper does before is not in it: supervised
    training on a stronger model's solutions, hard ones repeated (``--sft-steps``), and a first stage with a window
    shorter than the second's (24k of 32k tokens), which is to raise entropy. Shares and numbers of phases are ours."""
    return grpo().replace(control=HardFocus())


@system("dars", title="DARS-B: depth and breadth", paper="arXiv:2508.13755", base="grpo")
def dars() -> Algorithm:
    """Depth: the summed advantage of a group vanishes as its prompt gets harder, so prompts of which less than half of eight rollouts
    are right are rolled out again, up to 64 times in all (``hardness``, the HW runs; ``generate.schedule=equal`` with
    ``generate.most=32`` are the ET runs), and groups that are all right or all wrong are dropped. Advantages without the standard
    deviation; all rollouts count alike, so a hard prompt weighs as many times more as it was rolled out. Breadth: two epochs of one
    full-batch step each. A step spends at most prompts x samples rollouts, twice the first stage here, and wishes beyond are cut in
    proportion; the scripts grant all (``control.samples=64`` does), which costs up to eight times the first stage where nothing is
    solved. Pooled rates are biased upwards, since only low first ones are tried again."""
    return Algorithm(
        control=Uniform(samples=16),
        generate=Deepened(),
        filter=Screen(survival=(DropDegenerate(),)),
        credit=Pipeline(),
        objective=PolicyGradient(),
        update=GradientUpdate(epochs=2),
    )
