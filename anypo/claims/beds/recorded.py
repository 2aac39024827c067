"""Where offline methods are tried: Pendulum, recorded under a controller that swings it up, half of whose actions are random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anypo.algorithm import Algorithm
from anypo.data.transitions import Arrays
from anypo.engine.acting import Acting
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.trainer import Trainer
from anypo.tasks.gym import GymTask

TASK = "Pendulum-v1"


class Recording(GymTask):
    """Pendulum with the transitions of `count` steps of `controller`: half of the actions, drawn by lot, are uniform instead, and all
    have Gaussian noise of deviation `noise`. Pendulum terminates nowhere: its time limit cuts."""

    def __init__(self, count: int, seed: int, noise: float = 0.3) -> None:
        super().__init__(TASK)
        rng, environment = np.random.default_rng(seed), self.make()
        rows: list[tuple[np.ndarray, ...]] = []
        observation, over = environment.reset(seed=seed)[0], False
        while len(rows) < count:
            if over:
                observation, over = environment.reset()[0], False
            wanted = rng.uniform(-2, 2) if rng.random() < 0.5 else controller(observation)
            action = np.clip([wanted + noise * rng.standard_normal()], -2, 2).astype(np.float32)
            following, reward, terminated, truncated, _ = environment.step(action)
            rows.append((observation, action, following, np.float32(reward), np.float32(terminated)))  # type: ignore[arg-type]
            observation, over = following, bool(terminated or truncated)
        environment.close()
        self._arrays = Arrays(*(np.stack(column) for column in zip(*rows)))

    def transitions(self) -> Arrays:
        return self._arrays


def controller(observation: np.ndarray) -> float:
    """The torque that pumps energy in where there is too little of it, and holds the pendulum where it stands upright."""
    cosine, sine, speed = (float(x) for x in observation)
    if cosine > 0.85:
        return float(np.clip(-12 * np.arctan2(sine, cosine) - 3 * speed, -2, 2))
    energy = speed**2 / 6 + 5 * (cosine - 1)  # relative to standing upright: mass, length 1, gravity 10
    return float(-2 * np.sign(speed * energy))


@dataclass(frozen=True)
class RecordedBed:
    """Sizes that every method gets: recorded steps, batch, layers, learning rate, discount."""

    count: int = 4000
    batch: int = 128
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 1e-3
    gamma: float = 0.97

    def learn(self, method: Algorithm, updates: int, seed: int) -> Trainer:
        """The trainer of a method on recorded transitions after that many updates. One seed records the same data for all."""
        sizes = {
            "replay.updates": updates, "replay.batch": self.batch, "policy.hidden": list(self.hidden),
            "credit.hidden": list(self.hidden), "credit.gamma": self.gamma, "credit.optimiser.lr": self.lr,
            "update.optimiser.lr": self.lr,
        }  # fmt: skip
        task, fitted = Recording(self.count, seed), method.set(sizes)
        world = World(task, fitted.policy.build(Wanted(task, seed=seed)), Acting())
        trainer = Trainer(fitted, world, seed, 1)
        trainer.step()
        return trainer
