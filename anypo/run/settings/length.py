"""How long a run is: so many steps, so many passes over the data, or as long as a budget lasts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.errors import UserError
from anypo.tasks import Task
from anypo.tasks.mixture import Mixture, sources

LENGTHS = ("steps", "epochs", "budget")
"""The settings of which one says how long a run is."""

UNKNOWN = 100
"""Steps that a run is planned to have before its first one, where its budget says nothing of them."""


def once(given: Mapping[str, Any]) -> None:
    """`UserError` where more than one of `LENGTHS` has a value."""
    said = [name for name in LENGTHS if given.get(name)]
    if len(said) > 1:
        raise UserError(
            f"the length of a run is said once, not by {' and '.join(said)}; name one of {', '.join(LENGTHS)}"
        )


def passes(epochs: float, algorithm: Algorithm, task: Task, options: Mapping[str, Any]) -> int:
    """Steps in which the task's training problems are met `epochs` times, the last one rounded up. `UserError` for a task that makes
    as many problems as are asked for."""
    if not _ends(task, options):
        raise UserError(
            f"task '{task.name}' has no end that could be passed {epochs:g} times, for its problems are made as they are asked for; "
            "say --steps N or --budget tokens=1M, or (where it has that option) how many problems there are: --task-set size=1000"
        )
    return max(1, math.ceil(round(epochs * len(task) / met(algorithm), 9)))


def _ends(task: Task, options: Mapping[str, Any]) -> bool:
    """Whether there are so many problems and no more, because they are in memory or somebody said how many."""
    if isinstance(task, Mixture):
        return all(_ends(task.tasks[source.called], source.task_options) for source in sources(options))
    return bool(getattr(task, "stored", False)) or "size" in options


def met(algorithm: Algorithm) -> int:
    """Problems that a step meets: those that control asks for, or worked solutions where nothing is asked."""
    silent = algorithm.generate.part == "nothing"
    return int(getattr(algorithm.replay, "examples", 1)) if silent else algorithm.control.prompts


def foreseen(budget: Budget, algorithm: Algorithm) -> int:
    """Steps that are planned before the first one: those that spend the budget if no filter asks for more and every rollout is as
    long as it may be."""
    control, generate = algorithm.control, algorithm.generate
    rollouts = control.prompts * control.samples
    of_a_step = {
        "rollouts": rollouts,
        "tokens": rollouts * getattr(generate, "max_new", 0),
        "updates": algorithm.update.turns() if hasattr(algorithm.update, "turns") else None,
    }.get(budget.measure)
    return max(1, math.ceil(budget.amount / of_a_step)) if of_a_step else UNKNOWN


__all__ = ["LENGTHS", "foreseen", "met", "once", "passes"]
