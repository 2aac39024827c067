"""Groups of rollouts that were right or wrong, for controllers to learn from."""

from __future__ import annotations

import numpy as np

from anypo.context import Context, Memory
from anypo.control import Control
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory

MANY = 10_000


def group(index: int, right: int, size: int) -> Group:
    """`size` rollouts of a problem, the first `right` of them right."""
    content = Tokens(np.array([7, 1]), np.array([CONTEXT, ACTION]))
    made = [
        Trajectory(
            index, content, np.zeros(1), np.zeros(1, int), {"correct": float(i < right)}, float(i < right), sample=i
        )
        for i in range(size)
    ]
    return Group(index, tuple(made), index=index)


def at(part: Control, step: int = 0, total: int = 20) -> Context:
    """A context in which `part` is the whole algorithm."""
    return Context(step, total, 0, Memory(part))


def show(part: Control, context: Context, *seen: tuple[int, int, int]) -> None:
    """The outcome of a step: (problem, right, rollouts) of each group."""
    part.observe([group(*one) for one in seen], Batch.pack([]), context)
