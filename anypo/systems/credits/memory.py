"""Methods whose credit remembers: beliefs and records by prompt, and whether the last update helped."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import UncertainPrompts, Uniform
from anypo.credit.centres.trackers import BetaTracker, DriftForgetting, KLForgetting, MeasureDrift, StartBeliefs
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation, Whiten
from anypo.credit.retrospect import Retrospect
from anypo.credit.shape.tokens import EntropyBonus
from anypo.credit.shaping.history import HistoryLength
from anypo.objective.aggregates import SequenceMean, TokenMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.regularisers.terms import KL
from anypo.objective.trusts.clips import Clip
from anypo.replay import LastResponse, PreviousBatch
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, PhasedUpdate


@system(
    "spo-single-stream",
    title="Single-stream Policy Optimization",
    paper="arXiv:2509.13232",
    base="reinforce",
    excuses={"common offset": "its belief reads rewards as success rates in [0, 1]"},
)
def spo_single_stream() -> Algorithm:
    """One rollout per prompt and no group: the baseline is the mean of a persistent Beta belief about the prompt's
    success as it was before the visit; advantages are whitened over the batch. The belief forgets faster the more the
    policy moved on the prompt's previous response, which is kept and scored again. Prompts are drawn by the belief's
    standard deviation plus 0.05. The belief of a prompt begins with eight rollouts that are not trained on, as in the release,
    which makes them offline; here they are part of the run's rollouts, 8 of every 35, and the run's first steps train on nothing
    else. The release trains on 14,000 problems, 500 steps of 768, so
    each is met 27 times; as many problems are drawn from here as a run of any length can meet that often."""
    return Algorithm(
        control=UncertainPrompts(prompts=64, samples=1, first_samples=8, passes=27),
        replay=LastResponse(),
        credit=Pipeline(
            shaping=(MeasureDrift(), StartBeliefs()),
            centre=BetaTracker(forgetting=DriftForgetting()),
            normalise=Whiten(),
        ),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28, dual=10.0), aggregate=TokenMean()),
    )


@system(
    "mssr",
    title="Stable single-rollout RL",
    paper="arXiv:2512.18215",
    base="spo-single-stream",
    excuses={"common offset": "its belief reads rewards as success rates in [0, 1]"},
)
def mssr() -> Algorithm:
    """Single-rollout training with one forgetting factor for all prompts, taken from the mean KL to the reference over
    the last 20 steps, and with entropy-shaped advantages: after whitening, A grows by min(|A| / 2, 0.4 H_t), so
    uncertain tokens are rewarded more and punished less, which keeps single rollouts from collapsing. KL to the
    reference in the loss. A belief needs visits: the run draws from as many problems as it can meet ten times (ours; how often
    the paper's 2048 prompts a step come back is not published)."""
    return Algorithm(
        control=UncertainPrompts(prompts=64, samples=1, first_samples=1, passes=10),
        credit=Pipeline(centre=BetaTracker(forgetting=KLForgetting()), normalise=Whiten(), shape=(EntropyBonus(),)),
        objective=PolicyGradient(aggregate=TokenMean(), regularise=(KL(coefficient=0.001),)),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("hapo-history", title="History-Aware Policy Optimization", paper="arXiv:2505.11225", base="grpo")
def hapo_history() -> Algorithm:
    """Adds a length reward relative to the shortest right answer ever seen of the prompt: cos(pi/2 L / h), at least -0.7 for
    right answers and at most 0 for wrong ones. A right answer gains only below the record; a wrong one shorter than the
    record is not punished, which leaves room to explore. Then GRPO. Without a record (first visits) it is GRPO; the release trains
    five epochs on 2,000 problems, so here every problem is met five times, too."""
    return grpo().replace(
        control=Uniform(passes=5), credit=Pipeline(shaping=(HistoryLength(),), scale=StandardDeviation())
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
