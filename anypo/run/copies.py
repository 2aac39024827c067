"""Copies of a run that are thrown away: worlds of their own, in which nothing of the run changes."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.roles import Cast, cast
from anypo.run.consumer import Consumer
from anypo.run.producer import Producer
from anypo.tasks.base import Problem, Task
from anypo.tasks.mixture import mixture_of


class Run(Protocol):
    """A run, as a `Trainer` is one; it may be changed where it is a copy in a world of its own."""

    algorithm: Algorithm
    world: World
    producer: Producer
    consumer: Consumer
    memory: Any
    number: int
    total: int
    seed: int

    def __init__(self, algorithm: Algorithm, world: World, seed: int, total: int) -> None: ...

    def step(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def apart(world: World, seed: int, policy: Any = None) -> World:
    """A world of its own around a copy of the policy, or around `policy` in its place: what is trained there changes nothing here.
    Models in other roles are shared, but for the policy's own. Raises `UserError` where the policy cannot be copied, or not sampled
    from beside the other."""
    if not hasattr(world.sampler, "beside"):
        raise UserError(
            f"nothing can be tried here, for {type(world.sampler).__name__} samples from the trained policy only; use engine=local"
        )
    policy = twin(world.policy) if policy is None else policy
    beside = world.sampler.beside(policy)
    own = tuple(Cast(role=role, model="self") for role, model in world.models.items() if model.spec == "self")
    return World(world.task, policy, beside, {**world.models, **cast(own, policy, beside, seed)})


def twin(policy: Any) -> Any:
    """A copy of the policy, trainable where it is. Raises `UserError` where it cannot be copied."""
    try:
        return policy.twin() if hasattr(policy, "twin") else copy.deepcopy(policy)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"nothing can be tried here, for the policy ({type(policy).__name__}) cannot be copied: {error}"
        ) from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Every random stream of the process is afterwards where it was."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (tasks of users draw from it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


@dataclass(frozen=True)
class Trained:
    """A task whose held-out problems are those that it trains on, the last first."""

    task: Task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def __len__(self) -> int:
        return len(self.task)

    @property
    def n_heldout(self) -> int:
        return len(self.task)

    def heldout(self, index: int) -> Problem:
        return self.task.train(len(self.task) - 1 - index)


def to_be_scored(task: Task) -> Task:
    """The task as trials are scored on it: its training problems, those of every source where it is a mixture."""
    mixture = mixture_of(task)
    if mixture is None:
        return Trained(task)
    return mixture.over({name: Trained(own) for name, own in mixture.tasks.items()})


__all__ = ["Run", "Trained", "apart", "to_be_scored", "twin", "undisturbed"]
