"""Environments in use, whose episodes go on from one step of the run to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.records import FINISHED, TRUNCATED
from anypo.tasks.base import Action, Task


@dataclass
class Seat:
    """One environment in use: where its episode stands, and what has happened since the stretch began. `number`: which of the
    world's it is; `episode`: the number of its episode, from 0.

    `environment` takes arrays as actions, replies with observations, and has its latest one as its ``observation``
    (`anypo.tasks.gym.GymEpisode`).
    """

    environment: Any
    number: int
    episode: int = -1
    earned: float = 0.0
    length: int = 0
    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @property
    def observation(self) -> Any:
        """What is seen now."""
        return self.environment.observation

    def begin(self, seed: int) -> None:
        """The next episode: its seed depends on the run's, the seat and how many episodes this seat has begun."""
        self.episode += 1
        own = np.random.SeedSequence([seed, self.number, self.episode, 31]).generate_state(1, np.uint32)[0]
        self.environment.reset(seed=int(own) >> 1)
        self.earned, self.length = 0.0, 0

    def step(self, action: np.ndarray, sent: np.ndarray, logp: float) -> str:
        """Take one action (`sent` is what the environment gets of it); the finish reason when the episode ended, else ''."""
        self.observations.append(np.asarray(self.observation))
        reply = self.environment.step(Action(array=sent))
        reward = reply.rewards["return"]
        self.actions.append(action)
        self.logp.append(logp)
        self.rewards.append(reward)
        self.earned, self.length = self.earned + reward, self.length + 1
        return FINISHED if reply.done else TRUNCATED if reply.truncated else ""

    def state_dict(self) -> dict[str, Any]:
        """Where the episode stands, as plain data (between two steps of the run no stretch is open)."""
        return {
            "number": self.number,
            "episode": self.episode,
            "state": self.environment.snapshot(),
            "earned": self.earned,
            "length": self.length,
        }

    @classmethod
    def restore(cls, task: Task, saved: Mapping[str, Any]) -> Seat:
        """A seat in a new environment of `task`, where `state_dict` found one."""
        environment: Any = task.environment(task.train(0))
        environment.reset(saved["state"])
        return cls(environment, saved["number"], saved["episode"], saved["earned"], saved["length"])
