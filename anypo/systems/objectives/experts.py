"""Methods that learn from expert solutions beside the rollouts, by schedule, by token or by need."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.filter import Screen, SuccessGate
from anypo.generate import WithExperts
from anypo.objective.supervised import Annealed, Blend, Summed, Supervised
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


def _with_experts(experts: Supervised, mixing: Annealed) -> Algorithm:
    return grpo().replace(
        generate=WithExperts(), objective=Blend(rollouts=grpo().objective, experts=experts, mixing=mixing)
    )


@system("chord", title="CHORD-mu", paper="arXiv:2508.11408", base="grpo")
def chord() -> Algorithm:
    """GRPO and supervised learning from expert solutions in one loss, (1 - mu) GRPO + mu SFT, each a mean over its own samples.
    mu falls from 0.9 to 0.05 over 200 steps as half a cosine: imitate first, explore later. One solution per prompt beside the
    rollouts."""
    return _with_experts(Supervised(), Annealed(peak=0.9, valley=0.05, warmup=0, decay=200))


@system("chord-phi", title="CHORD-phi", paper="arXiv:2508.11408", base="chord")
def chord_phi() -> Algorithm:
    """CHORD with a weight per expert token instead of a schedule: p (1 - p), detached, where p is the policy's probability of the
    token. It peaks at one half and vanishes for what is already known and for what is out of reach, so experts neither collapse
    nor explode the entropy. mu is 0.1 throughout."""
    return _with_experts(Supervised(weight="phi"), Annealed(peak=0.1, valley=0.1, warmup=0, decay=0))


@system("hpt", title="Hybrid Post-Training", paper="arXiv:2509.04419", base="grpo")
def hpt() -> Algorithm:
    """Chooses for every prompt between reinforcement and supervised learning: where at least one rollout succeeded, GRPO on the
    rollouts; where all failed, and the group has no gradient, the expert solution instead. The loss is the GRPO term over the
    rollouts that stayed plus the token-mean likelihood of the solutions. As the policy improves, the supervised share
    falls by itself."""
    return grpo().replace(
        generate=WithExperts(),
        filter=Screen(survival=(SuccessGate(gate=0.0),)),
        objective=Blend(rollouts=grpo().objective, experts=Supervised(), mixing=Summed(coefficient=1.0)),
    )
