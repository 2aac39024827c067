"""Actors that a critic can pull on, as values."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from anypo.errors import UserError
from anypo.policies.classes.base import PolicyClass, Wanted
from anypo.policies.control.actors import DeterministicActor, SquashedGaussian


class SquashedGaussianClass(PolicyClass, name="squashed_gaussian"):
    """A Gaussian squashed into the action bounds (`SquashedGaussian`): SAC's actor."""

    hidden: tuple[int, ...] = (256, 256)
    provides = frozenset({"actor"})

    def build(self, wanted: Wanted) -> SquashedGaussian:
        return SquashedGaussian(*_spaces(wanted, self.part), hidden=self.hidden, seed=wanted.seed)


class DeterministicClass(PolicyClass, name="deterministic"):
    """A deterministic actor with exploration noise (`DeterministicActor`): TD3's and DDPG's."""

    hidden: tuple[int, ...] = (256, 256)
    provides = frozenset({"actor"})
    exploration: float = Field(0.1, ge=0.0, description="deviation of the noise while acting, actions in [-1, 1]")
    smoothing: float = Field(0.2, ge=0.0, description="deviation of the noise at the next observation")
    limit: float = Field(0.5, ge=0.0, description="bound of that noise")

    def build(self, wanted: Wanted) -> DeterministicActor:
        size, low, high = _spaces(wanted, self.part)
        return DeterministicActor(
            size, low, high, self.hidden, wanted.seed, self.exploration, self.smoothing, self.limit
        )


def _spaces(wanted: Wanted, part: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Size of an observation and the bounds of an action. `UserError` where the action space is no bounded box."""
    space = getattr(wanted.task, "actions", None)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        name = getattr(wanted.task, "name", "this task")
        raise UserError(
            f"policy={part} acts with vectors in finite bounds, and {name} acts with {space or 'text'}; choose a task with a "
            "bounded Box of actions (Pendulum-v1), or another policy"
        )
    return int(np.prod(wanted.task.observation.shape or (1,))), low, high
