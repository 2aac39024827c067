"""Trials: what a run would score after training on some rollouts, found out on a copy that is thrown away."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anypo.context import Context
from anypo.control.mixtures.probes import Probed, Probes
from anypo.data.records import Group
from anypo.errors import UserError
from anypo.run.copies import Run, apart, to_be_scored, undisturbed
from anypo.run.probes import probed
from anypo.scoring import scorer_of
from anypo.tasks.unlabelled import labelled


class Trials:
    """The trials of one run, as its world offers them (`anypo.generate.base.Trial`)."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, groups: Sequence[Group], steps: int, size: int = 32) -> float:
        """What the run would score after `steps` steps on `groups` (`score`); the run is as it was afterwards."""
        run = self.run
        with undisturbed():
            copied = type(run)(run.algorithm, apart(run.world, run.seed), run.seed, run.total)
            own: dict[str, Any] = {"world": {"seats": [], "models": {}}, "beside": {}}
            copied.load_state_dict(copy.deepcopy(run.state_dict() | own))
            return score(copied, groups, steps, size)

    def probes(self, wanted: Probes) -> Probed:
        """`anypo.run.probes.probed`; the run is as it was afterwards."""
        with undisturbed():
            return probed(self.run, wanted)


def score(run: Run, groups: Sequence[Group], steps: int, size: int) -> float:
    """The score of the copied `run` after `steps` more steps on `groups`, by the task's own scorer over `size` of the last training
    problems, played as the method acts. Held-out problems have no part in it: what a run is judged by may not steer it. All
    trials of a run are scored on the same problems with the same random numbers. Raises `UserError` where nothing can be scored."""
    task = to_be_scored(run.world.task)
    scorer = scorer_of(task).fit(task, size)
    if not scorer.size or not labelled(task):
        raise UserError(f"a trial has no score on task '{task.name}', whose answers nobody knows")
    for step in range(steps):
        run.consumer.learn(list(groups), Context(run.number + step, run.total, run.seed, run.memory))
    seed = int(np.random.SeedSequence([run.seed, 53]).generate_state(1)[0])
    return scorer.score(replace(run.world, task=task), run.algorithm.generate, seed).score


__all__ = ["Trials", "score"]
