"""Off-policy learning: single transitions, drawn again and again from what happened lately, from a data set, or from both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.data.transitions import Arrays, Ring
from anypo.replay.base import Replay
from anypo.tasks.base import Task

SALT = 61
"""Marks the random numbers of draws."""


class Transitions(Replay, name="transitions"):
    """A ring of the last `capacity` transitions; every step of the loop yields `updates_per_step` batches for each fresh transition,
    `batch` of them drawn uniformly for every one (a new draw each time, after the last was learned from).

    Nothing is yielded before `begin` transitions are there. `share` of every batch, rounded to whole transitions, is drawn from the
    task's recorded ones instead (half of it: symmetric sampling, arXiv:2302.02948), which never enter the ring.
    """

    provides = frozenset({"transitions", "off_policy"})
    capacity: int = Field(1_000_000, ge=1)
    batch: int = Field(256, ge=1)
    updates_per_step: float = Field(1.0, ge=0.0, description="batches for every fresh transition")
    begin: int = Field(100, ge=1, description="transitions before the first batch")
    share: float = Field(0.0, ge=0.0, lt=1.0, description="part of every batch from the task's data set")

    @property
    def offline(self) -> int:
        """Recorded transitions in every batch."""
        return round(self.share * self.batch)

    def suits(self, task: Task) -> str | None:
        return _has_data(task) if self.share else None

    def refuse(self, algorithm: Any) -> str | None:
        if self.share and not 0 < self.offline < self.batch:
            return f"share={self.share:g} of batch={self.batch} leaves one side without a transition; make the batch larger"
        return None

    def start(self) -> dict[str, Any]:
        return {"ring": Ring(self.capacity), "seen": 0, "drawn": 0}

    def batches(self, fresh: list[Group], version: int, context: Context) -> Iterator[Batch]:
        memory = context.memory[self]
        ring: Ring = memory["ring"]
        arrays = Arrays.of(fresh)
        before = memory["seen"]
        if arrays is not None:
            ring.add(arrays)
            memory["seen"] += len(arrays)
        context.log("replay/size", ring.size)
        learned = lambda seen: int(max(0, seen - self.begin) * self.updates_per_step)
        for _ in range(learned(memory["seen"]) - learned(before)):
            rng = np.random.default_rng([context.seed, memory["drawn"], SALT])
            memory["drawn"] += 1
            mine = ring.draw(self.batch - self.offline, rng)
            yield (mine.joined(recorded(context, self.offline, rng)) if self.offline else mine).batch()

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        raise NotImplementedError("transitions are drawn as batches")


class Recorded(Replay, name="recorded"):
    """Offline learning: every step of the loop yields `updates` batches of `batch` of the task's recorded transitions, drawn
    uniformly. Nothing is kept: the data stay the task's, and a checkpoint holds none of them. Rollouts only measure; with
    generate=nothing there are none."""

    provides = frozenset({"transitions", "off_policy"})
    batch: int = Field(256, ge=1)
    updates: int = Field(256, ge=1, description="batches in one step of the loop")

    def suits(self, task: Task) -> str | None:
        return _has_data(task)

    def batches(self, fresh: list[Group], version: int, context: Context) -> Iterator[Batch]:
        context.log("replay/size", len(context.world.task.transitions()))
        for number in range(self.updates):
            rng = np.random.default_rng([context.seed, context.step, number, SALT])
            yield recorded(context, self.batch, rng).batch()

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        raise NotImplementedError("transitions are drawn as batches")


def recorded(context: Context, count: int, rng: np.random.Generator) -> Arrays:
    """`count` recorded transitions of the run's task, uniformly and with replacement, their actions in the policy's units."""
    found: Arrays = context.world.task.transitions().drawn(count, rng)
    taken = getattr(context.world.policy, "taken", None)
    return found if taken is None else found.replace(action=taken(found.action))


def _has_data(task: Task) -> str | None:
    if hasattr(task, "transitions"):
        return None
    return (
        "it learns from recorded transitions, of which the task has none; name a Minari data set (--task minari:NAME)"
    )
