"""Environments in use, whose episodes go on from one step of the run to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.records import FAILED, FINISHED, TRUNCATED, Steps
from anypo.errors import UserError
from anypo.generate.act.base import Taken
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
    taken: list[Taken] = field(default_factory=list)
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

    def step(self, taken: Taken) -> str:
        """Take one action (`Taken.of` this environment); the finish reason when the episode ended, else ''. A step that raises ends
        it before that action, with the reason in `failed`."""
        seen = np.asarray(self.observation)
        try:
            reply = self.environment.step(Action(array=taken.sent))
            reward = reply.rewards["return"]
        except UserError:
            raise
        except Exception as error:
            self.failed = f"environment: {reason(error)}"
            return FAILED
        self.observations.append(seen)
        self.taken.append(taken)
        self.rewards.append(reward)
        self.earned, self.length = self.earned + reward, self.length + 1
        return FINISHED if reply.done else TRUNCATED if reply.truncated else ""

    def stretch(self, finish: str) -> dict[str, Any]:
        """What happened since the stretch began as fields of a trajectory: content, log-probabilities, turns (one for every step in
        the environment) and rewards, each paid at the last decision of its step."""
        decisions = [len(taken.logp) for taken in self.taken]
        turn = np.repeat(np.arange(len(decisions)), decisions)
        rewards = np.zeros(len(turn))
        rewards[np.cumsum(decisions, dtype=np.int64) - 1] = self.rewards
        logp = np.concatenate([taken.logp for taken in self.taken]) if self.taken else np.zeros(0)
        return {
            "content": self._content(turn, finish == FINISHED), "logp": logp, "turn": turn, "step_rewards": rewards
        }  # fmt: skip

    def _content(self, turn: np.ndarray, terminated: bool) -> Steps:
        if not self.taken:
            space, actions = self.environment.environment.observation_space, self.environment.action_space
            nothing = np.zeros((0, *(actions.shape or ())), dtype=actions.dtype)
            seen = np.zeros(space.shape, dtype=space.dtype)
            return Steps(np.zeros((0, *space.shape), dtype=space.dtype), nothing, seen, False)
        actions = np.concatenate([taken.action for taken in self.taken])
        extra = {name: np.concatenate([taken.extra[name] for taken in self.taken]) for name in self.taken[0].extra}
        return Steps(np.stack(self.observations)[turn], actions, np.asarray(self.observation), terminated, extra)

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
