"""Trials: what a run would score after training on some rollouts, found out on a copy that is thrown away."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.data.records import Group
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.roles import Cast, cast
from anypo.run.consumer import Consumer
from anypo.scoring import scorer_of
from anypo.tasks.base import Problem, Task
from anypo.tasks.unlabelled import labelled


class Copy(Protocol):
    """A run that may be changed: a `Trainer` in a world of its own."""

    algorithm: Algorithm
    world: World
    consumer: Consumer
    memory: Any
    number: int
    total: int
    seed: int


def score(run: Copy, groups: Sequence[Group], steps: int, size: int) -> float:
    """The score of the copied `run` after `steps` more steps on `groups`, by the task's own scorer over `size` of the last training
    problems, played as the method acts. Held-out problems have no part in it: what a run is judged by may not steer it. All
    trials of a run are scored on the same problems with the same random numbers. Raises `UserError` where nothing can be scored."""
    task = _Trained(run.world.task)
    scorer = scorer_of(task).fit(task, size)
    if not scorer.size or not labelled(task):
        raise UserError(f"a trial has no score on task '{task.name}', whose answers nobody knows")
    for step in range(steps):
        run.consumer.learn(list(groups), Context(run.number + step, run.total, run.seed, run.memory))
    seed = int(np.random.SeedSequence([run.seed, 53]).generate_state(1)[0])
    return scorer.score(replace(run.world, task=task), run.algorithm.generate, seed).score


def apart(world: World, seed: int) -> World:
    """A world of its own around a copy of the policy: what is trained there changes nothing here. Models in other roles are shared,
    but for the policy's own. Raises `UserError` where the policy cannot be copied, or not sampled from beside the other."""
    policy, sampler = world.policy, world.sampler
    try:
        twin = policy.twin() if hasattr(policy, "twin") else copy.deepcopy(policy)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"nothing can be tried here, for the policy ({type(policy).__name__}) cannot be copied: {error}"
        ) from None
    if not hasattr(sampler, "beside"):
        raise UserError(
            f"nothing can be tried here, for {type(sampler).__name__} samples from the trained policy only; use engine=local"
        )
    beside = sampler.beside(twin)
    own = tuple(Cast(role=role, model="self") for role, model in world.models.items() if model.spec == "self")
    return World(world.task, twin, beside, {**world.models, **cast(own, twin, beside, seed)})


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
class _Trained:
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
