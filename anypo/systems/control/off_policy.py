"""Off-policy actors and critics: learned from a ring of transitions, one batch per step of the environment."""

from __future__ import annotations

import math

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.critics.temporal_difference import TemporalDifference
from anypo.generate.act import Own
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.objective.actor.improvement import DeterministicImprovement, SoftImprovement
from anypo.policies.classes.actors import DeterministicClass, SquashedGaussianClass
from anypo.replay.transitions import Transitions
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.optimisers import AdamW
from anypo.update.references import EmaReference

STEPS = 8
"""Environment steps in one step of the loop; as many updates follow. One at a time would spend the time of a run on its records; 64
at a time leave some seeds of Pendulum untaught after 3,840 steps (docs/control-tasks.md)."""


def _rollouts(warmup: int) -> EnvironmentSteps:
    return EnvironmentSteps(environments=1, steps=STEPS, act=Own(warmup=warmup))


@system("sac", title="Soft Actor-Critic", paper="arXiv:1812.05905", made_for="actions")
def sac() -> Algorithm:
    """Two critics learn by temporal differences from a ring of transitions what an action is worth, the entropy of what follows
    included; the actor, a Gaussian squashed into the action bounds, follows the gradient of the lesser critic through its own
    fresh action, plus alpha times its entropy; alpha is learned so that the entropy stays near minus the number of action
    dimensions. Target critics are averages (0.995 a step). One update with 256 transitions for each step in the environment, after
    100 random ones. Values of stable-baselines3 (the authors' release warms up for thousands of steps and does not bound the
    deviation); steps and updates come in blocks of 8. The lesser critic in the actor's loss is the paper's; the release's last
    revision takes the mean."""
    return Algorithm(
        control=Uniform(prompts=1, samples=1),
        generate=_rollouts(warmup=100),
        replay=Transitions(begin=100),
        credit=TemporalDifference(soft=True),
        objective=SoftImprovement(),
        update=GradientUpdate(
            optimiser=AdamW(lr=3e-4),
            max_grad_norm=math.inf,
            references=(EmaReference(name="target", of="credit", decay=0.995),),
        ),
        policy=SquashedGaussianClass(),
    )


@system(
    "td3",
    title="Twin Delayed Deep Deterministic Policy Gradient",
    paper="arXiv:1802.09477",
    base="sac",
    made_for="actions",
)
def td3() -> Algorithm:
    """The deterministic counterpart of SAC: the lesser of two target critics at a lagged actor's action, blurred with clipped noise
    (deviation 0.2, at most 0.5), is what follows; the actor follows the first critic, in every second step only, and explores with
    noise of deviation 0.1. The lagged networks move in every second step too. Learning rate 1e-3 (the paper's), batches of 256 and
    two layers of 256 (the release's, which has 3e-4), 100 random steps first (stable-baselines3's; the release takes 25,000:
    --set generate.act.warmup=25000 --set replay.begin=25000)."""
    return Algorithm(
        control=Uniform(prompts=1, samples=1),
        generate=_rollouts(warmup=100),
        replay=Transitions(begin=100),
        credit=TemporalDifference(next_source="lagged", optimiser=AdamW(lr=1e-3)),
        objective=DeterministicImprovement(every=2),
        update=GradientUpdate(
            optimiser=AdamW(lr=1e-3),
            max_grad_norm=math.inf,
            references=(
                EmaReference(name="lagged", decay=0.995, every=2),
                EmaReference(name="target", of="credit", decay=0.995, every=2),
            ),
        ),
        policy=DeterministicClass(),
    )
