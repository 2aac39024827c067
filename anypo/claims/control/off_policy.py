"""Claims of `anypo.systems.control.off_policy`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.control import ControlBed, learn, score
from anypo.engine.acting import Acting
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask

TASK, STEPS, EPISODES = "Pendulum-v1", 3840, 10
"""The environment, steps in it, and the episodes of a score, none of them seen in training."""


def trained(
    method: Algorithm,
    seed: int,
    steps: int,
    environment: str = TASK,
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> Trainer:
    """The trainer of a method on transitions after `steps` steps of the environment; `watch` sees every step."""
    task = GymTask(environment)
    world = World(task, method.policy.open(Wanted(task, seed=seed)), Acting())
    trainer = Trainer(method, world, seed, max(1, steps // method.generate.steps))  # type: ignore[attr-defined]
    for _ in range(trainer.total):
        trainer.step()
        watch(trainer)
    return trainer


@claim("sac", base="ppo", seconds=600, seeds=5,
       published="MuJoCo: more sample-efficient than PPO and steadier across seeds (Haarnoja et al., 2018, fig. 1)")  # fmt: skip
def sac(run: ClaimRun) -> Outcome:
    """Mean return of the best actions over ten new episodes after 3,840 steps of Pendulum, PPO beside it at its usual settings and
    the same number of steps."""
    steps = run.steps(STEPS)
    bed = ControlBed(TASK, steps=min(512, steps), minibatches=8, gamma=0.9, lam=0.95, lr=1e-3)
    base = run.each(lambda seed: score(learn("ppo", bed, steps, seed)[1], EPISODES, 10_000))
    ours = run.each(lambda seed: score(trained(find("sac").algorithm(), seed, steps), EPISODES, 10_000))
    return compare(base, ours, "mean return after training", run)


@claim("td3", base="the same with one critic", seconds=900, seeds=5,
       published="a single critic overestimates; the lesser of two does not (Fujimoto et al., 2018, fig. 1 and 2)")  # fmt: skip
def td3(run: ClaimRun) -> Outcome:
    """Mean value that the critics give the replayed actions after 3,840 steps of Pendulum: the lesser of two targets against a
    single critic's own, all else equal. Lower is less overestimated; what the true value is, the claim does not know."""
    steps = run.steps(STEPS)
    single = {"credit.members": 1}
    base = run.each(lambda seed: _value(find("td3").algorithm().set(single), seed, steps))
    ours = run.each(lambda seed: _value(find("td3").algorithm(), seed, steps))
    return compare(base, ours, "mean value of replayed actions", run, larger=False)


def _value(method: Algorithm, seed: int, steps: int) -> float:
    """Mean of the critics over the ring after training."""
    trainer = trained(method, seed, steps)
    ring = trainer.memory.states["replay"]["ring"]
    batch = ring.draw(2048, np.random.default_rng(seed)).batch()
    return float(trainer.weights.learners["credit"].fill(batch, ["q"], grad=False)["q"].mean())
