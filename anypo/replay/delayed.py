"""Stale rollouts on purpose: what asynchronous generation does to the data, in a run that takes turns."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.data.stored import store
from anypo.outlook import Outlook
from anypo.replay.base import Replay, revived


class Delayed(Replay, name="delayed"):
    """Trains on the groups generated `lag` steps before, as they were sampled then: every decision keeps its log-probability and
    policy version, so ratios to the sampler know its age.

    The age grows by one in every second step until it is `lag`, for nothing older is there at the beginning: until then every
    step's groups are trained on twice, from then on once. Checkpoints hold the groups that still wait.
    """

    provides = frozenset({"off_policy"})
    lag: int = Field(8, ge=1, description="age of what is trained on, steps")

    def start(self) -> dict[str, Any]:
        return {"steps": [], "count": 0}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        oldest = (outlook.steps - 1) // 2
        if oldest >= self.lag:
            return None
        if not oldest:
            return f"in {outlook.steps} step{'s' * (outlook.steps > 1)} nothing ages; plan 3 steps or more"
        return (
            f"beyond an age of {oldest} steps, for {outlook.steps} steps are planned and {self.lag} are reached after {2 * self.lag}; "
            f"set replay.lag={oldest}, or plan more steps"
        )

    def regime(self) -> tuple[str, ...]:
        return (
            f"trains on rollouts that are {self.lag} step{'s' * (self.lag > 1)} old (fewer during the first {2 * self.lag})",
        )

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        memory = context.memory[self]
        age = min(self.lag, memory["count"] // 2)
        memory["steps"] = [*memory["steps"], [store(group) for group in fresh if group.trajectories]][-self.lag - 1 :]
        memory["count"] += 1
        chosen = [revived(saved, context) for saved in memory["steps"][-1 - age]] if age else fresh
        ages = [version - int(t.version.max()) for group in chosen for t in group.trajectories if len(t)]
        context.log("replay/lag", age)
        context.log("replay/age", float(np.mean(ages)) if ages else 0.0)
        return chosen
