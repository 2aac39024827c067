"""Methods that learn from expert solutions beside the rollouts, by schedule, by token or by need."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.filter import Screen, SuccessGate
from anypo.generate import WithExperts
from anypo.objective.aggregates import ConstantLength
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.terms import Entropy
from anypo.objective.supervised import Annealed, Blend, Routed, Supervised
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate


def _with_experts(experts: Supervised, mixing: Annealed) -> Algorithm:
    return grpo().replace(
        generate=WithExperts(), objective=Blend(rollouts=PolicyGradient(), experts=experts, mixing=mixing)
    )


@system("chord", title="CHORD-mu", paper="arXiv:2508.11408", base="grpo")
def chord() -> Algorithm:
    """GRPO and supervised learning from expert solutions in one loss, (1 - mu) GRPO + mu SFT, each a mean over its own tokens. mu
    falls from 0.9 to 0.05 as half a cosine: imitate first, explore later. One solution per prompt beside the rollouts. Values of
    the released configuration (agentscope-ai/Trinity-RFT, mix_chord.yaml), where mu falls over 200 steps; here over half of the
    run, so that a short one has both halves (--set objective.mixing.decay=200)."""
    return _with_experts(Supervised(), Annealed(peak=0.9, valley=0.05, warmup=0, decay=0.5))


@system("chord-phi", title="CHORD-phi", paper="arXiv:2508.11408", base="chord")
def chord_phi() -> Algorithm:
    """CHORD with a weight per expert token instead of a schedule: p (1 - p), detached, where p is the policy's probability of the
    token. It peaks at one half and vanishes for what is already known and for what is out of reach, so experts neither collapse
    nor explode the entropy. mu is 0.1 throughout."""
    return _with_experts(Supervised(weight="phi"), Annealed(peak=0.1, valley=0.1, warmup=0, decay=0))


@system("hpt", title="Hybrid Post-Training", paper="arXiv:2509.04419", base="grpo")
def hpt() -> Algorithm:
    """Chooses for every prompt between reinforcement and supervised learning: where at least one rollout succeeded, policy
    gradient on the rollouts; where all failed, and the group has no gradient, the expert solution instead. Prompts count alike: the
    term of the rollouts that stayed is weighted by their share of the prompts, the token-mean likelihood of the solutions by
    theirs, so that the supervised part falls by itself as the policy improves. Reinforcement as in the released script
    (TsinghuaC3I/Unify-Post-Training ae332f5, exp_scripts/train.sh): the reward minus the group's mean and no deviation, no clip,
    token terms summed over a constant length, entropy bonus 0.001 reduced like them, two minibatches per batch. What the release
    adds up is not this mean over prompts: inside a micro-batch of 32768 tokens it sums the policy gradient over responses and
    averages likelihood and entropy over tokens, so that their proportion depends on how many fit. An optimiser step whose gradient
    has a norm above 80 is left out, as released: a guard, which there is on the scale of that sum (64 responses a worker)."""
    return Algorithm(
        generate=WithExperts(),
        filter=Screen(survival=(SuccessGate(gate=0.0),)),
        objective=Blend(
            rollouts=PolicyGradient(
                trust=Unclipped(), aggregate=ConstantLength(), regularise=(Entropy(coefficient=0.001),)
            ),
            experts=Supervised(),
            mixing=Routed(),
        ),
        update=GradientUpdate(minibatches_per_epoch=2, skip_norm=80.0),
    )
