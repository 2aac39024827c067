"""Claims of `anypo.systems.control.off_policy`."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.control import ControlBed, learn, score
from anypo.data.transitions import Arrays
from anypo.engine.acting import Acting
from anypo.generate.act.base import sent
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask

TASK, STEPS, EPISODES, STARTS = "Pendulum-v1", 3840, 10, 20
"""The environment, steps in it, the episodes of a score and the starts of a value, none of them seen in training."""


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


@claim("sac", base="ppo", seconds=1200, seeds=5,
       published="MuJoCo: more sample-efficient than PPO and steadier across seeds (Haarnoja et al., 2018, fig. 1)")  # fmt: skip
def sac(run: ClaimRun) -> Outcome:
    """Mean return of the best actions over ten new episodes after 3,840 steps of Pendulum, PPO beside it at its usual settings and
    the same number of steps. The remark is the control: the same with alpha fixed at 1, where it starts."""
    steps = run.steps(STEPS)
    bed = ControlBed(TASK, steps=min(512, steps), minibatches=8, gamma=0.9, lam=0.95, lr=1e-3)
    base = run.each(lambda seed: score(learn("ppo", bed, steps, seed)[1], EPISODES, 10_000))
    method = find("sac").algorithm()
    ours = run.each(lambda seed: score(trained(method, seed, steps), EPISODES, 10_000))
    constant = method.set({"objective.temperature": {"part": "fixed", "value": 1.0}})
    fixed = run.each(lambda seed: score(trained(constant, seed, steps), EPISODES, 10_000))
    run.note(f"alpha fixed at 1: {np.mean(fixed):.1f}.")
    return compare(base, ours, "mean return after training", run)


@claim("td3", base="the same with one critic", seconds=900, seeds=5,
       published="a single critic overestimates; the lesser of two does not (Fujimoto et al., 2018, fig. 1 and 2)")  # fmt: skip
def td3(run: ClaimRun) -> Outcome:
    """How far the critics' value of the best action at twenty fresh starts is from the discounted return that the policy then gets in
    1,000 steps without a time limit, after 3,840 steps of Pendulum: the lesser of two targets against a single critic's own, all
    else equal. Being lower is no merit by itself: the size of the error counts, and too low counts as too high does."""
    steps = run.steps(STEPS)
    horizon = run.steps(1000)
    single = {"credit.members": 1}
    base = run.each(lambda seed: _error(find("td3").algorithm().set(single), seed, steps, horizon))
    ours = run.each(lambda seed: _error(find("td3").algorithm(), seed, steps, horizon))
    run.note(f"value minus return: {np.mean(base):.1f} (one critic), {np.mean(ours):.1f} (two).")
    return compare([*map(abs, base)], [*map(abs, ours)], "size of the error of the value", run, larger=False)


def _error(method: Algorithm, seed: int, steps: int, horizon: int) -> float:
    """Mean over fresh starts of what the critics say of the best action minus the discounted return that follows it."""
    trainer = trained(method, seed, steps)
    world, gamma = trainer.world, trainer.algorithm.credit.gamma  # type: ignore[attr-defined]
    environments = [gymnasium.make(TASK, max_episode_steps=horizon) for _ in range(STARTS)]
    seen = np.stack([e.reset(seed=20_000 + number)[0] for number, e in enumerate(environments)])
    first, returns = None, np.zeros(STARTS)
    for step in range(horizon):
        action = world.policy.best(seen.astype(np.float32))
        first = first if first is not None else (seen, action)
        moved = [e.step(a) for e, a in zip(environments, sent(action, environments[0].action_space, world))]
        returns += gamma**step * np.array([reward for _, reward, *_ in moved])
        seen = np.stack([observation for observation, *_ in moved])
    assert first is not None
    start, action = (array.astype(np.float32) for array in first)
    batch = Arrays(start, action, start, np.zeros(STARTS, np.float32), np.zeros(STARTS, np.float32)).batch()
    value = trainer.weights.learners["credit"].fill(batch, ["q"], grad=False)["q"]
    return float(value.mean()) - float(returns.mean())
