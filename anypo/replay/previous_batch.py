"""Gives the previous step's rollouts once more, marked, beside the fresh ones."""

from __future__ import annotations

from typing import Any

from anypo.context import Context
from anypo.data.records import REPLAYED, Group
from anypo.data.stored import store
from anypo.replay.base import Replay, revived


class PreviousBatch(Replay, name="previous_batch"):
    """Fresh groups and, marked as replayed, those of the previous step with the log-probabilities they were sampled with
    (PIPO, arXiv:2604.00860)."""

    provides = frozenset({"previous_batch"})

    def start(self) -> dict[str, Any]:
        return {"groups": []}

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        memory = context.memory[self]
        old = [revived(saved, context) for saved in memory["groups"]]
        memory["groups"] = [store(group) for group in fresh if group.trajectories]
        return [*fresh, *map(_marked, old)]


def _marked(group: Group) -> Group:
    return group.replace(trajectories=tuple(t.replace(guidance=REPLAYED) for t in group.trajectories))
