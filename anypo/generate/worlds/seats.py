"""Environments in use, whose episodes go on from one step of the run to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.records import FAILED, FINISHED, TRUNCATED
from anypo.errors import UserError
from anypo.tasks.base import Action, Task
from anypo.tasks.worker import reason

TRIES = 3
"""Episodes in a row that may fail to begin."""


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
    failed: str = ""

    @property
    def observation(self) -> Any:
        """What is seen now."""
        return self.environment.observation

    def begin(self, seed: int, task: Task | None = None) -> None:
        """The next episode: its seed depends on the run's, the seat and how many episodes this seat has begun.

        One that raises costs that episode: the next is tried in a new environment of `task`, the run's; `UserError` after
        `TRIES` in a row.
        """
        for attempt in range(TRIES):
            self.episode += 1
            own = np.random.SeedSequence([seed, self.number, self.episode, 31]).generate_state(1, np.uint32)[0]
            try:
                self.environment.reset(seed=int(own) >> 1)
                break
            except UserError:
                raise
            except Exception as error:
                if task is None or attempt == TRIES - 1:
                    raise UserError(f"an environment could not begin an episode: {reason(error)}") from error
                self.environment = task.environment(task.train(0))
        self.earned, self.length, self.failed = 0.0, 0, ""

    def step(self, action: np.ndarray, sent: np.ndarray, logp: float) -> str:
        """Take one action (`sent` is what the environment gets of it); the finish reason when the episode ended, else ''. A step that
        raises ends it before that action, with the reason in `failed`."""
        seen = np.asarray(self.observation)
        try:
            reply = self.environment.step(Action(array=sent))
            reward = reply.rewards["return"]
        except UserError:
            raise
        except Exception as error:
            self.failed = f"environment: {reason(error)}"
            return FAILED
        self.observations.append(seen)
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
