"""The replay buffer: recent groups, trained on again beside fresh ones. Every decision keeps the policy version and the
log-probability it was sampled with, so ratios and corrections know its age."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.data.stored import store
from anypo.outlook import Outlook, moment, said_of
from anypo.replay.base import Replay, revived


class Buffer(Replay, name="buffer"):
    """All fresh groups, joined by older ones until these are the share `fraction` of what is trained on.

    An older group is drawn by choosing one of the last `window` steps uniformly, then one of its groups, each at most once per
    step. From `until` on (a step, below 1 a share of the run) nothing old is used and the buffer is emptied (ReMix's handover to
    on-policy training, arXiv:2507.06892), for good, also where the run is continued to more steps.
    """

    provides = frozenset({"off_policy"})
    fraction: float = Field(0.4, ge=0.0, lt=1.0)
    window: int = Field(2, ge=1, description="steps kept")
    until: float | None = Field(None, gt=0)

    def start(self) -> dict[str, Any]:
        return {"steps": [], "over": False}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        end = outlook.steps if self.until is None else min(outlook.steps, moment(self.until, outlook.steps))
        if end > 1 and self.fraction > 0:
            return None
        if self.fraction == 0:
            return "replay.fraction=0 asks for nothing old; set replay.fraction=0.4"
        return (
            f"nothing is older in the first step, and old data is used in no other of {outlook.steps}; plan more steps"
        )

    def regime(self) -> tuple[str, ...]:
        end = f", until {said_of(self.until)}" if self.until else ""
        return (f"{self.fraction:.0%} of each batch comes from the last {self.window} steps{end}",)

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        memory = context.memory[self]
        if memory["over"] or (self.until is not None and context.step >= context.moment(self.until)):
            memory["steps"], memory["over"] = [], True
            return fresh
        kept: list[list[dict[str, Any]]] = memory["steps"]
        drawn = [
            revived(saved, context)
            for saved in draw(kept, round(len(fresh) * self.fraction / (1 - self.fraction)), context)
        ]
        memory["steps"] = [*kept, [store(group) for group in fresh if group.trajectories]][-self.window :]
        ages = [version - int(t.version.max()) for group in drawn for t in group.trajectories if len(t)]
        context.log("replay/share", len(drawn) / max(1, len(drawn) + len(fresh)))
        context.log("replay/age", float(np.mean(ages)) if ages else 0.0)
        return fresh + drawn


def draw(steps: list[list[Any]], count: int, context: Context) -> list[Any]:
    """`count` distinct entries (fewer when there are not so many): a uniform step, then a uniform entry of it."""
    rng = np.random.default_rng([context.seed, context.step, 41])
    pools = [list(entries) for entries in steps if entries]
    out: list[Any] = []
    while pools and len(out) < count:
        place = int(rng.integers(len(pools)))
        out.append(pools[place].pop(int(rng.integers(len(pools[place])))))
        if not pools[place]:
            pools.pop(place)
    return out
