"""Methods that change how rewards become advantages: baselines, normalisation, shaping, selection, per-prompt memory.

Sizes of a step are the library's unless they belong to the method (see `anypo.systems.baselines`).
"""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import UncertainPrompts, Uniform
from anypo.credit.centres.groups import GroupMedian
from anypo.credit.centres.probe import CrossProbe, QualityHead
from anypo.credit.centres.trackers import BetaTracker, DriftForgetting, KLForgetting, MeasureDrift
from anypo.credit.granularity.branches import ChainValues, TreeValues
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Averaged, Named, StandardDeviation, Weighted, Whiten
from anypo.credit.retrospect import Retrospect
from anypo.credit.scales import BetaDensity, MedianDeviation
from anypo.credit.select.rollouts import (
    AdvantageVariance,
    Distinct,
    DropPivot,
    OwnDecisions,
    UncertainTokens,
    UnlikelyTokens,
)
from anypo.credit.sets import SetScore
from anypo.credit.shape.tokens import EntropyBonus, Novelty
from anypo.credit.shaping.history import HistoryLength, ToolCost
from anypo.credit.shaping.outcomes import Flawed
from anypo.credit.weights import LengthAdvantage
from anypo.filter import DropDegenerate, EquationCheck, Screen
from anypo.generate import AdaptiveRounds, Anchored, ReRolled, SegmentTree
from anypo.objective.aggregates import SequenceMean, SequenceSum, TokenMean
from anypo.objective.corrections import Truncated
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.regularisers.terms import KL, Entropy
from anypo.objective.trusts.clips import Clip
from anypo.replay import LastResponse, PreviousBatch
from anypo.systems.baselines import grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, PeriodicReference, PhasedUpdate


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


@system("bnpo", title="Beta Normalization Policy Optimization", paper="arXiv:2506.02864", base="grpo")
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
    """Several rewards are normalised inside the group one by one, then summed with their weights, and the sum is
    whitened over the batch. GRPO sums first, so different reward vectors with equal sums get equal advantages, and a
    weight competes with the variance of its reward. Whitening keeps the scale independent of the number of rewards
    (``over=rows`` weighs long responses more, as one of the two released implementations does). A reward can be made to
    count only where another is earned (shaping ``conditioned``)."""
    return grpo().replace(
        credit=Pipeline(
            components=Named(), scale=StandardDeviation(eps=1e-4), combine=Weighted(), normalise=Whiten(eps=1e-4)
        )
    )


@system("adora", title="ADORA", paper="arXiv:2602.10019", base="grpo")
def adora() -> Algorithm:
    """One weight per group on GRPO's advantages, from the group's own lengths: 1 where the longest right answer is
    longer than the mean wrong one (longer reasoning pays now) or nothing is right, 0.1 otherwise. Signs and ratios
    inside a group never change. The released stronger variant is ``credit.group_weight.finished=true`` with shaping
    ``difficulty_length``."""
    return grpo().replace(credit=Pipeline(scale=StandardDeviation(), group_weight=LengthAdvantage()))


@system("fapo", title="Flawed-Aware Policy Optimization", paper="arXiv:2510.22543", base="grpo")
def fapo() -> Algorithm:
    """Three rewards: +1 for a right answer, 0 for a right answer with a wrong step in it, -1 for a wrong one; then GRPO.
    A flawed answer is reinforced while failures outnumber clean solutions and penalised afterwards, prompt by prompt,
    without a schedule. Flaws are found here by recalculating the equations in right answers; any signal that sets the reward
    component ``flawed`` can take its place (the paper trains a generative judge)."""
    return Algorithm(
        filter=Screen(signals=(EquationCheck(),)),
        credit=Pipeline(shaping=(Flawed(),), scale=StandardDeviation()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28)),
    )


@system("dagrpo", title="Distinctiveness-Aware GRPO", paper="arXiv:2512.06337", base="grpo")
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


@system("xrpo", title="XRPO", paper="arXiv:2510.06672", base="grpo")
def xrpo() -> Algorithm:
    """GRPO with the step's rollouts handed out in rounds to the prompts where one more shrinks the uncertainty of the
    mean reward most (plus an exploration bonus), and with right answers that the policy finds unlikely paid up to half
    as much again. ``generate.exemplars`` shows solved examples when sampling prompts without success; such rollouts are
    trained on the plain prompt, their ratio taken against the sampler that saw the examples."""
    return grpo().replace(
        generate=AdaptiveRounds(),
        credit=Pipeline(scale=StandardDeviation(), shape=(Novelty(),)),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), aggregate=SequenceMean()),
    )


@system("spo-single-stream", title="Single-stream Policy Optimization", paper="arXiv:2509.13232", base="reinforce")
def spo_single_stream() -> Algorithm:
    """One rollout per prompt and no group: the baseline is the mean of a persistent Beta belief about the prompt's
    success as it was before the visit; advantages are whitened over the batch. The belief forgets faster the more the
    policy moved on the prompt's previous response, which is kept and scored again. Prompts are drawn by the belief's
    standard deviation plus 0.05; a first visit has eight rollouts, which start the belief."""
    return Algorithm(
        control=UncertainPrompts(prompts=64, samples=1, first_samples=8),
        replay=LastResponse(),
        credit=Pipeline(
            shaping=(MeasureDrift(),), centre=BetaTracker(forgetting=DriftForgetting()), normalise=Whiten()
        ),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28, dual=10.0), aggregate=TokenMean()),
    )


@system(
    "mssr", title="Stable single-rollout RL", paper="arXiv:2512.18215", family="multimodal", base="spo-single-stream"
)
def mssr() -> Algorithm:
    """Single-rollout training with one forgetting factor for all prompts, taken from the mean KL to the reference over
    the last 20 steps, and with entropy-shaped advantages: after whitening, A grows by min(|A| / 2, 0.4 H_t), so
    uncertain tokens are rewarded more and punished less, which keeps single rollouts from collapsing. KL to the
    reference in the loss."""
    return Algorithm(
        control=UncertainPrompts(prompts=64, samples=1, first_samples=1),
        credit=Pipeline(centre=BetaTracker(forgetting=KLForgetting()), normalise=Whiten(), shape=(EntropyBonus(),)),
        objective=PolicyGradient(aggregate=TokenMean(), regularise=(KL(coefficient=0.001),)),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("hapo-history", title="History-Aware Policy Optimization", paper="arXiv:2505.11225", base="grpo")
def hapo_history() -> Algorithm:
    """Adds a length reward relative to the shortest right answer ever seen of the prompt: cos(pi/2 L / h), at least -0.7 for
    right answers and at most 0 for wrong ones. A right answer gains only below the record; a wrong one shorter than the
    record is not punished, which leaves room to explore. Then GRPO. Without a record (first visits) it is GRPO."""
    return grpo().replace(credit=Pipeline(shaping=(HistoryLength(),), scale=StandardDeviation()))


@system("otc-po", title="Optimal Tool Calls", paper="arXiv:2504.14870", family="agent", base="grpo")
def otc_po() -> Algorithm:
    """Multiplies the outcome by a factor that is largest at the fewest tool calls any right answer of the prompt has
    needed so far, so wrong answers never profit from saving calls. Then GRPO. Calls are counted by the reward component
    ``tool_calls``, or as the turns before the answer. ``credit.shaping.0.form=absolute`` is the variant without groups."""
    return grpo().replace(credit=Pipeline(shaping=(ToolCost(),), scale=StandardDeviation()))


@system("poise", title="POISE", paper="arXiv:2605.07579", base="ppo")
def poise() -> Algorithm:
    """Two rollouts per prompt; the baseline of each is a small probe's reading of the *other* one's hidden states and
    entropies, so it can use a whole trajectory and still leave the gradient unbiased. The probe (principal components,
    ridge regression) is refitted every step on recent rollouts, taught the other rollout's reward. Clipped ratio, token
    mean."""
    return Algorithm(
        control=Uniform(prompts=32, samples=2), credit=Pipeline(centre=CrossProbe()), objective=PolicyGradient()
    )


@system("pipo", title="Policy Improvement Policy Optimization", paper="arXiv:2604.00860", base="grpo")
def pipo() -> Algorithm:
    """Closes the loop around GRPO: the mean reward of the fresh batch, in standard deviations from the last eight, tells
    whether the previous update helped; the previous batch is then used once more, its advantages (scaled to absolute sum
    G per group) times that feedback, or times 0.1 of it when negative. That step comes first, then the fresh batch's own."""
    return Algorithm(
        replay=PreviousBatch(),
        credit=Retrospect(base=Pipeline(scale=StandardDeviation())),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), aggregate=SequenceMean()),
        update=PhasedUpdate(),
    )


@system("brorl", title="BroRL", paper="arXiv:2510.01180", family="theory", base="reinforce")
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


@system("polychromic", title="Polychromic objectives", paper="arXiv:2509.25424", family="control", base="ppo")
def polychromic() -> Algorithm:
    """Scores sets of rollouts: mean reward times the share of distinct members. A rollout's advantage is the mean over
    all sets of four that contain it, minus the mean over all sets, whitened over the batch; an unsuccessful but
    different rollout is credited too. All 70 sets of a group of eight are used, where the paper draws four: the same
    expectation with less variance. ``generate=vine`` with ``credit.select=[{part: window, size: 5}]`` branches from
    states along a rollout, as the paper does in environments it can reset. PPO's loss with entropy 0.01 and KL 0.01 to
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


@system("prefix-grouper", title="Prefix Grouper", paper="arXiv:2506.05433", family="system", base="grpo")
def prefix_grouper() -> Algorithm:
    """GRPO as it is. What the paper adds is how the training pass computes it: a prompt shared by a group goes through
    the network once, forward and backward, with the same outputs and gradients as the repeated prompts. That is the
    embedded engine's way for every method; this name exists to find it and its claim."""
    return grpo()
