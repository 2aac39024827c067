"""Gymnasium environments as tasks (`anypo.run.acting` makes the world in which a control policy is trained on one)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks.base import Environment, Problem


class GymTask:
    """One Gymnasium environment, e.g. ``CartPole-v1``. It has a single problem, whose episodes differ by their seed.

    `options` go to `gymnasium.make`. Raises `UserError` for an environment that is not installed, or whose observations are not
    one vector or whose actions are neither discrete nor a vector.
    """

    outcome = "return"
    scorer = "returns"

    def __init__(self, environment_id: str, options: Mapping[str, Any] | None = None) -> None:
        self.name = environment_id
        self.options = dict(options or {})
        self.weights: Mapping[str, float] = {"return": 1.0}
        probe = self.make()
        self.observation, self.actions = probe.observation_space, probe.action_space
        probe.close()
        if not isinstance(self.observation, gymnasium.spaces.Box):
            raise UserError(
                f"{environment_id} observes {self.observation}; only environments with vectors (Box) are supported"
            )
        if not isinstance(self.actions, (gymnasium.spaces.Box, gymnasium.spaces.Discrete)):
            raise UserError(f"{environment_id} acts with {self.actions}; only Box and Discrete actions are supported")

    def make(self) -> gymnasium.Env[Any, Any]:
        """A new environment."""
        try:
            return gymnasium.make(self.name, **self.options)
        except gymnasium.error.Error as error:
            raise UserError(f"cannot make the environment '{self.name}': {' '.join(str(error).split())}") from None

    @property
    def discrete(self) -> bool:
        return isinstance(self.actions, gymnasium.spaces.Discrete)

    def __len__(self) -> int:
        return 1

    @property
    def n_heldout(self) -> int:
        return 1

    def train(self, index: int) -> Problem:
        return Problem(prompt_id(self.name), ())

    def heldout(self, index: int) -> Problem:
        return self.train(index)

    def environment(self, problem: Problem) -> Environment:
        raise UserError(f"{self.name} takes actions, not text; use the generator 'environment_steps'")

    def describe(self) -> dict[str, Any]:
        return {
            "source": "gymnasium",
            "version": gymnasium.__version__,
            "environment": self.name,
            "options": self.options,
        }
