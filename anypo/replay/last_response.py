"""Keeps every prompt's last response, so that the next visit can tell how far the policy moved."""

from __future__ import annotations

from typing import Any

from anypo.context import Context
from anypo.data.records import DRIFT, Group
from anypo.data.stored import plain, restore
from anypo.replay.base import Replay


class LastResponse(Replay, name="last_response"):
    """Trains on the fresh groups; adds, for prompts seen before, their previous response as a group of its own, marked so that
    credit takes it out again once its log-probabilities are known (SPO, arXiv:2509.13232)."""

    provides = frozenset({"stored_responses"})

    def start(self) -> dict[str, dict[int, Any]]:
        return {"responses": {}}

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        kept: dict[int, Any] = context.memory[self]["responses"]
        seen = {group.prompt: group for group in reversed(fresh)}
        old = [
            seen[p].replace(trajectories=(restore(kept[p]).replace(guidance=DRIFT),))
            for p in dict.fromkeys(group.prompt for group in fresh)
            if p in kept
        ]
        for group in fresh:
            for trajectory in group.trajectories[:1]:
                if len(trajectory):
                    kept[group.prompt] = plain(trajectory)
        return [*fresh, *old]
