"""Methods about how a step is carried out rather than what it learns: shared prefixes, log-probabilities of past versions."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.objective.aggregates import SequenceMean
from anypo.objective.corrections import Banded
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.trusts.clips import Clip
from anypo.replay import Delayed
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate, VersionedReference


@system(
    "prefix-grouper",
    title="Prefix Grouper",
    paper="arXiv:2506.05433",
    base="grpo",
    excuses={"acts": "the same outputs and gradients as its base, with every prompt of a group encoded once"},
)
def prefix_grouper() -> Algorithm:
    """GRPO as it is. What the paper adds is how the training pass computes it: a prompt shared by a group goes through
    the network once, forward and backward, with the same outputs and gradients as the repeated prompts. That is the
    embedded engine's way for every method; this name exists to find it and its claim."""
    return grpo()


@system(
    "missing-old-logits",
    title="Exact decoupled correction",
    paper="arXiv:2605.12070",
    base="grpo",
    excuses={"on-policy": "its ratio divides by the snapshot that sampled, here another policy"},
)
def missing_old_logits() -> Algorithm:
    """Asynchronous GRPO whose ratio to the sampler is split where it should be: into trainer against sampler at the version that
    wrote the token (an engine's error: outside [0.5, 2] the token is left out, inside it is weighted) and the present policy
    against that version (staleness: PPO's clip at 0.2). The trainer's log-probabilities of past versions come from snapshots of the
    weights. Without them the split is made at the step's starting policy, which takes staleness for engine error:
    --set update.reference=none --set objective.ratio=token --set objective.corrections.0.ratio.numerator=old. An
    average of weights stands in for the snapshots with --set update.reference='{part: ema, decay: 0.9}' (PPO-EWMA). The
    thresholds are not published. Rollouts are eight steps old, by waiting instead of by asynchronous generation. The embedded engine
    makes no error, so that with it the first ratio is 1 and the clip at the version that wrote is what is left; engine=remote has
    something to correct."""
    return Algorithm(
        replay=Delayed(lag=8),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="ref"),
            trust=Clip(low=0.2, high=0.2),
            corrections=(Banded(ratio=TokenRatio(numerator="ref", denominator="behaviour"), low=0.5, high=2.0),),
            aggregate=SequenceMean(),
        ),
        update=GradientUpdate(reference=VersionedReference()),
    )
