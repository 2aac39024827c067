"""Off-policy learning: single transitions, drawn again and again from what happened lately."""

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


class Transitions(Replay, name="transitions"):
    """A ring of the last `capacity` transitions; every step of the loop yields `updates_per_step` batches for each fresh transition,
    `batch` of them drawn uniformly for every one (a new draw each time, after the last was learned from).

    Nothing is yielded before `begin` transitions are there.
    """

    provides = frozenset({"transitions", "off_policy"})
    capacity: int = Field(1_000_000, ge=1)
    batch: int = Field(256, ge=1)
    updates_per_step: float = Field(1.0, ge=0.0, description="batches for every fresh transition")
    begin: int = Field(100, ge=1, description="transitions before the first batch")

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
            rng = np.random.default_rng([context.seed, memory["drawn"], 61])
            memory["drawn"] += 1
            yield ring.draw(self.batch, rng).batch()

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        raise NotImplementedError("transitions are drawn as batches")
