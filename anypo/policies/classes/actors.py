"""Actors that a critic can pull on, as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.errors import UserError
from anypo.policies.classes.base import PolicyClass, Wanted, bounded
from anypo.policies.control.actors import Actor, DeterministicActor, SquashedGaussian
from anypo.policies.control.perceptron import Standard


class _ActorClass(PolicyClass):
    """What both share: the size of the network, and how it sees."""

    hidden: tuple[int, ...] = (256, 256)
    normalise: bool = Field(False, description="observations by mean and deviation of the task's recorded ones")
    provides = frozenset({"actor"})

    def check_acts(self, task: Any) -> None:
        bounded(task, self.part)

    def build(self, wanted: Wanted) -> Actor:
        actor = self._seeing(wanted)
        if isinstance(actor.norm, Standard):
            if not hasattr(wanted.task, "transitions"):
                raise UserError(
                    f"policy.normalise takes its statistics from recorded observations, and {wanted.task.name} has none; name a "
                    "Minari data set (--task minari:NAME), or set policy.normalise=false"
                )
            actor.norm.take(torch.from_numpy(wanted.task.transitions().observation).flatten(1))
        return actor

    def open(self, wanted: Wanted, weights: str = "") -> Actor:
        if not weights:
            return self.build(wanted)
        actor = self._seeing(wanted)  # the statistics are among the weights
        actor.load(weights)
        return actor

    def actor(self, size: int, low: np.ndarray, high: np.ndarray, seed: int) -> Any:
        """A new actor for observations of `size` numbers and actions between `low` and `high`."""
        raise NotImplementedError

    def _seeing(self, wanted: Wanted) -> Actor:
        size, low, high = bounded(wanted.task, self.part)
        actor: Actor = self.actor(size, low, high, wanted.seed)
        if self.normalise:
            actor.norm = Standard(size)
        return actor


class SquashedGaussianClass(_ActorClass, name="squashed_gaussian"):
    """A Gaussian squashed into the action bounds (`SquashedGaussian`): SAC's actor."""

    def actor(self, size: int, low: np.ndarray, high: np.ndarray, seed: int) -> SquashedGaussian:
        return SquashedGaussian(size, low, high, self.hidden, seed)


class DeterministicClass(_ActorClass, name="deterministic"):
    """A deterministic actor with exploration noise (`DeterministicActor`): TD3's and DDPG's."""

    exploration: float = Field(0.1, ge=0.0, description="deviation of the noise while acting, actions in [-1, 1]")
    smoothing: float = Field(0.2, ge=0.0, description="deviation of the noise at the next observation")
    limit: float = Field(0.5, ge=0.0, description="bound of that noise")

    def actor(self, size: int, low: np.ndarray, high: np.ndarray, seed: int) -> DeterministicActor:
        return DeterministicActor(size, low, high, self.hidden, seed, self.exploration, self.smoothing, self.limit)
