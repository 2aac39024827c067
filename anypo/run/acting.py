"""The world a control policy is trained in: a Gymnasium environment, and no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from anypo.engine.base import Completion, Request
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.control.networks import CategoricalPolicy, GaussianPolicy
from anypo.tasks.gym import GymTask


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
