"""Where policy-gradient methods are tried in control: the real loop in Gymnasium, with PPO's usual settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.credit.critics.gae import GAE
from anypo.credit.select.scatter import Scatter
from anypo.generate.act.base import sent
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.objective.aggregates import TokenMean
from anypo.run.acting import control_world
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update import AdamW, GradientUpdate


@dataclass(frozen=True)
class ControlBed:
    """An environment and the settings of PPO in it; the defaults are those of stable-baselines3 (2048 steps per update in one
    environment, 10 epochs of 32 minibatches, learning rate 3e-4, gamma 0.99, lambda 0.95, gradient norm 0.5)."""

    environment: str = "CartPole-v1"
    environments: int = 1
    steps: int = 2048
    epochs: int = 10
    minibatches: int = 32
    lr: float = 3e-4
    gamma: float = 0.99
    lam: float = 0.95
    set: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, **fields: Any) -> ControlBed:
        return dataclasses.replace(self, **fields)

    def adapt(self, algorithm: Algorithm | str) -> Algorithm:
        """The objective of a (named) method, with PPO's critic, rollouts and update around it."""
        method = find(algorithm).algorithm() if isinstance(algorithm, str) else algorithm
        credit = GAE(
            gamma=self.gamma,
            lam=self.lam,
            coefficient=1.0,  # the critic has its own optimiser: Adam makes the weight of its loss immaterial
            clip=None,
            truncated="bootstrap",
            select=(Scatter(),) if self.minibatches > 1 else (),
            optimiser=AdamW(lr=self.lr, eps=1e-5),
        )
        changed = method.replace(
            generate=EnvironmentSteps(environments=self.environments, steps=self.steps),
            credit=credit,
            update=GradientUpdate(
                optimiser=AdamW(lr=self.lr, eps=1e-5),
                epochs=self.epochs,
                minibatches_per_epoch=self.minibatches,
                max_grad_norm=0.5,
            ),
            objective=method.objective.replace(aggregate=TokenMean()),
        )
        return changed.set({"control.prompts": 1, "control.samples": 1, **self.set})


def learn(
    algorithm: Algorithm | str, bed: ControlBed, total: int, seed: int, returns: list[float] | None = None
) -> tuple[np.ndarray, Trainer]:
    """Train for `total` environment steps. Mean return of the episodes that ended in each update (nan where none did); every
    single one is appended to `returns`."""
    updates = max(1, round(total / (bed.steps * bed.environments)))
    trainer = Trainer(bed.adapt(algorithm), control_world(bed.environment, seed), seed, updates)
    curve = []
    for _ in range(updates):
        curve.append(trainer.step().get("episode/return", np.nan))
        if returns is not None:
            ended = (t.extra.get("episode_return") for group in trainer.groups for t in group.trajectories)
            returns += [value for value in ended if value is not None]
    return np.array(curve), trainer


def score(trainer: Trainer, episodes: int, seed: int) -> float:
    """Mean return of the most likely actions over `episodes` fresh episodes."""
    task, policy = trainer.world.task, trainer.world.policy
    environment = task.make()  # type: ignore[attr-defined]
    returns = []
    for number in range(episodes):
        observation, _ = environment.reset(seed=seed + number)
        total, over = 0.0, False
        while not over:
            action = sent(policy.best(np.asarray(observation)[None]), environment.action_space, trainer.world)[0]
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    environment.close()
    return float(np.mean(returns))
