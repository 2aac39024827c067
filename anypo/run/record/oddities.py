"""What the first step of a run shows to be wrong with the task, though nothing has failed (what fails ends the run by itself)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from anypo.algorithm import Algorithm
from anypo.data.records import Group, Trajectory
from anypo.tasks.base import Task
from anypo.tasks.unlabelled import LABEL

LEAST = 0.1
"""Share of episodes that is worth a word when it was cut."""


def oddities(groups: Sequence[Group], task: Task, algorithm: Algorithm) -> list[str]:
    """A sentence each for rewards that count nothing and episodes that were cut short."""
    rollouts = [trajectory for group in groups for trajectory in group.trajectories]
    if not rollouts:
        return []
    return [said for said in (_unweighted(rollouts, task, algorithm), _cut(rollouts, algorithm.generate)) if said]


def _unweighted(rollouts: Sequence[Trajectory], task: Task, algorithm: Algorithm) -> str:
    signals = getattr(algorithm.filter, "signals", ())  # they add components of their own
    if signals or not task.weights or any(LABEL in trajectory.rewards for trajectory in rollouts):
        return ""
    lost = sorted({name for trajectory in rollouts for name in trajectory.rewards} - set(task.weights))
    names = ", ".join(f"'{name}'" for name in lost)
    return (
        f"warning: task '{task.name}' gives the reward {names}, which is not in its weights and counts nothing"
        if lost
        else ""
    )


def _cut(rollouts: Sequence[Trajectory], generate: Any) -> str:
    """Of the rollouts that ended their last turn by themselves, a good part had another to come."""
    turns, most = generate.turns if generate.conversational else None, generate.max_new
    ended = [t for t in rollouts if t.turn is not None and len(t) and int((t.turn == t.turn[-1]).sum()) < most]
    cut = [t for t in ended if t.truncated and int(_last(t)) + 1 >= (turns or math.inf)]
    if turns is None or not cut or len(cut) < LEAST * len(ended):
        return ""
    which = "every episode was" if cut == ended else f"{len(cut)} of {len(rollouts)} episodes were"
    return (
        f"warning: {which} cut after {turns} turn{'s' * (turns != 1)}, before the environment said that it was over; allow more with "
        f"--set generate.turns={max(2, 2 * turns)}"
    )


def _last(trajectory: Trajectory) -> int:
    return -1 if trajectory.turn is None else int(trajectory.turn[-1])


__all__ = ["oddities"]
