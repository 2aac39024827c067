"""What controllers that remember problems have in common: who was right, whom a step has asked already, the best of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anypo.context import Context
from anypo.data.records import Group


def outcome(named: str, context: Context) -> str:
    """The component of a reward that says whether an answer is right: the one that is named, or else the task's."""
    return named or getattr(context.world and context.world.task, "outcome", "")


def right(group: Group, outcome: str) -> np.ndarray:
    """Which rollouts of a group are right, bool [n]: those whose component `outcome` (their reward, where they have none of that
    name) is 1."""
    return np.array([t.is_right(outcome) for t in group.trajectories], dtype=bool)


def counted(groups: Sequence[Group], outcome: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The task's problems among the groups (each once, in order of index), how many rollouts of each were right, and of how many:
    int64 [P], float64 [P], float64 [P]."""
    own = [group for group in groups if group.index >= 0 and group.trajectories]
    index, place = np.unique([group.index for group in own], return_inverse=True)
    solved, size = np.zeros(len(index)), np.zeros(len(index))
    np.add.at(solved, place, [right(group, outcome).sum() for group in own])
    np.add.at(size, place, [len(group.trajectories) for group in own])
    return index.astype(np.int64), solved, size


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest scores, the largest first, equal ones in the order in which they stand; more than there are: all,
    and again from the top, int64 [count]."""
    few = min(count, len(scores))
    if few < len(scores):
        edge = np.partition(scores, len(scores) - few)[len(scores) - few]
        ahead, level = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
        among = np.concatenate([ahead, level[: few - len(ahead)]])
    else:
        among = np.arange(few)
    order = among[np.argsort(-scores[among], kind="stable")]
    return np.resize(order, count)


def again(memory: dict[str, Any], context: Context, problems: int) -> np.ndarray:
    """Problems that this step has asked for already (a filter wants more), int64; none where all have been asked for."""
    if memory.get("asked_in") != context.step:
        memory["asked_in"], memory["asked"] = context.step, []
    asked = np.unique(np.array(memory["asked"], dtype=np.int64))
    return asked if len(asked) < problems else asked[:0]
