"""Which decisions of an answer are its reasoning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group, Tokens, Trajectory
from anypo.data.tokens import until
from anypo.errors import UserError
from anypo.filter.base import Signal

THOUGHT = "thought"
"""The key of decisions that belong to the reasoning (0; -1: the others)."""


class Thought(Signal, name="thought"):
    """Marks the reasoning: decisions up to and with the one that completes the first `end` get the key ``thought`` 0, all others, and
    those of an answer without it, -1. No reward changes."""

    end: str = Field("</think>", min_length=1)
    provides = frozenset({"key:thought"})

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        if context.world is None:
            raise UserError("filter (thought) needs a world whose policy can spell tokens")
        decode = context.world.policy.decode
        out = [g.replace(trajectories=tuple(self._marked(t, decode) for t in g.trajectories)) for g in groups]
        marked = [t.keys[THOUGHT] for group in out for t in group.trajectories]
        context.log("filter/thinking", sum(bool((m >= 0).any()) for m in marked) / max(1, len(marked)))  # type: ignore[union-attr]
        return out

    def _marked(self, trajectory: Trajectory, decode: Callable[[np.ndarray], str]) -> Trajectory:
        content, mark = trajectory.content, np.full(len(trajectory), -1, dtype=np.int64)
        if isinstance(content, Tokens):
            mark[: until(content.tokens[content.actions], (self.end,), decode)] = 0
        return trajectory.replace(keys={**trajectory.keys, THOUGHT: mark})


__all__ = ["Thought"]
