"""Perceptrons over observations, as values."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.errors import UserError
from anypo.policies.classes.base import PolicyClass, Wanted


class Mlp(PolicyClass, name="mlp"):
    """A perceptron that fits the environment: categorical for discrete actions, a diagonal Gaussian for vectors
    (`anypo.policies.control.networks`)."""

    hidden: tuple[int, ...] = (64, 64)
    normalise: bool = False

    def check_acts(self, task: Any) -> None:
        if getattr(task, "observation", None) is None or getattr(task, "actions", None) is None:
            raise UserError(
                f"policy=mlp acts in environments of vectors, and task '{task.name}' is none; choose a Gymnasium environment "
                "(--task CartPole-v1), or a language model with policy=given"
            )

    def build(self, wanted: Wanted) -> Any:
        from anypo.policies.control.networks import CategoricalPolicy, GaussianPolicy

        self.check_acts(wanted.task)
        observation, actions = wanted.task.observation, wanted.task.actions
        size = int(np.prod(observation.shape or (1,)))
        if hasattr(actions, "n"):
            return CategoricalPolicy(size, int(actions.n), self.hidden, seed=wanted.seed, normalise=self.normalise)
        width = int(np.prod(actions.shape))
        return GaussianPolicy(size, width, self.hidden, seed=wanted.seed, normalise=self.normalise)
