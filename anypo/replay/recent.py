"""The last rollouts of every problem, trained on again beside fresh ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.data.stored import store
from anypo.outlook import Outlook
from anypo.replay.base import Replay, revived


class RecentGroups(Replay, name="recent_groups"):
    """A step trains on its fresh groups and on stored ones, until the fresh are the share `fresh` (rollout replay,
    arXiv:2506.05316). From step `begin` on stored groups are drawn evenly from the newest of every problem whose rewards are not all
    the same; the first steps only store.

    After each draw the store keeps the newest groups that may still be drawn, so many that with those of this step, which join
    whatever their rewards, they are `size` times the fresh groups of a step. Where too few may be drawn the batch is smaller.
    """

    provides = frozenset({"off_policy"})
    fresh: float = Field(0.5, gt=0.0, le=1.0)
    size: float = Field(2.0, ge=1.0, description="stored groups, in steps' worth of fresh ones")
    begin: int = Field(2, ge=1)

    def start(self) -> dict[str, Any]:
        return {"groups": []}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.fresh == 1:
            return "replay.fresh=1 asks for nothing stored; set replay.fresh=0.5"
        return (
            None
            if outlook.steps > self.begin
            else f"stored groups are used from step {self.begin + 1} on; plan more steps"
        )

    def regime(self) -> tuple[str, ...]:
        return (f"{1 - self.fresh:.0%} of each batch was rolled out before, from step {self.begin + 1} on",)

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        memory = context.memory[self]
        newest = {saved["prompt"]: saved for saved in memory["groups"]}
        mixed = sorted((saved for saved in newest.values() if _mixed(saved)), key=lambda saved: saved["step"])
        drawn: list[Group] = []
        if context.step >= self.begin:
            wanted = min(len(mixed), round(len(fresh) * (1 / self.fresh - 1)))
            places = np.random.default_rng([context.seed, context.step, 73]).permutation(len(mixed))[:wanted]
            drawn = [revived(mixed[place], context) for place in places]
        room = max(0, round(self.size * len(fresh)) - len(fresh))
        memory["groups"] = [*mixed[len(mixed) - min(room, len(mixed)) :], *(store(g) for g in fresh if g.trajectories)]
        ages = [context.step - group.step for group in drawn]
        context.log("replay/share", len(drawn) / max(1, len(drawn) + len(fresh)))
        context.log("replay/age", float(np.mean(ages)) if ages else 0.0)
        return fresh + drawn


def _mixed(saved: dict[str, Any]) -> bool:
    """Whether a stored group's rewards differ, whatever their scale: a mean of neither 0 nor 1 where they are 0 or 1."""
    return bool(np.ptp([trajectory["reward"] for trajectory in saved["trajectories"]]) > 1e-9)
