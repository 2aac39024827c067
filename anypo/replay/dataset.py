"""Offline learning: rollouts are collected once, and then only trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.data.stored import store
from anypo.outlook import Outlook, said_of, unreached
from anypo.replay.base import Replay, revived


class Dataset(Replay, name="dataset"):
    """Keeps every group of the first `collect` steps (below 1: of that share of the run), in which nothing is trained on and the
    policy stays what it was, and then trains on `groups` of these per step, in a new random order in every pass. Later rollouts only
    measure: set control.prompts low to spend less on them. A run that is continued to more steps collects no more."""

    provides = frozenset({"off_policy"})
    collect: float = Field(0.2, gt=0, description="steps of collection, below 1 a share of the run")
    groups: int = Field(8, ge=1, description="groups trained on per step")

    def start(self) -> dict[str, Any]:
        return {"groups": [], "drawn": 0}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return unreached(self.collect, outlook.steps, "replay.collect")

    def regime(self) -> tuple[str, ...]:
        return (f"collects until {said_of(self.collect)} and trains from then on, on {self.groups} groups per step",)

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        memory = context.memory[self]
        kept: list[dict[str, Any]] = memory["groups"]
        if not memory["drawn"] and context.step < context.moment(self.collect):
            kept += [store(group) for group in fresh if group.trajectories]
            return []
        size, begin = min(self.groups, len(kept)), memory["drawn"]
        memory["drawn"] += size
        context.log("replay/share", 1.0 if size else 0.0)
        return [revived(kept[self._place(at, len(kept), context.seed)], context) for at in range(begin, begin + size)]

    def _place(self, at: int, count: int, seed: int) -> int:
        """Which group the `at`-th draw is: passes over the data, each in an order of its own."""
        epoch, place = divmod(at, count)
        return int(np.random.default_rng([seed, epoch, 53]).permutation(count)[place])
