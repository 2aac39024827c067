"""Gymnasium environments as tasks: the world a control policy is trained in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from anypo.data.records import prompt_id
from anypo.engine.base import Completion, Request
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.control.networks import CategoricalPolicy, GaussianPolicy
from anypo.tasks.base import Environment, Problem


class GymTask:
    """One Gymnasium environment, e.g. ``CartPole-v1``. It has a single problem, whose episodes differ by their seed.

    `options` go to `gymnasium.make`. Raises `UserError` for an environment that is not installed, or whose observations are not
    one vector or whose actions are neither discrete nor a vector.
    """

    outcome = "return"

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


class Acting:
    """Stands where a language world has its engine: control policies act by themselves, with their own log-probabilities."""

    exact = True

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise UserError("a control policy has no text engine; use the generator 'environment_steps'")


def control_world(
    environment_id: str,
    seed: int = 0,
    hidden: Sequence[int] = (64, 64),
    normalise: bool = False,
    options: Mapping[str, Any] | None = None,
) -> World:
    """A world with a new policy that fits the environment: categorical for discrete actions, Gaussian for vectors."""
    task = GymTask(environment_id, options)
    size = int(np.prod(task.observation.shape or (1,)))
    policy: CategoricalPolicy | GaussianPolicy
    if isinstance(task.actions, gymnasium.spaces.Discrete):
        policy = CategoricalPolicy(size, int(task.actions.n), hidden, seed=seed, normalise=normalise)
    else:
        policy = GaussianPolicy(size, int(np.prod(task.actions.shape)), hidden, seed=seed, normalise=normalise)
    return World(task, policy, Acting())
