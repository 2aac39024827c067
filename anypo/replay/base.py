"""The replay room's interface and its simplest member."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.data.stored import revive
from anypo.parts import Part
from anypo.tasks.base import Task


class Replay(Part, slot="replay"):
    """Chooses what one step trains on from what it just generated and what it kept."""

    def suits(self, task: Task) -> str | None:
        """A sentence saying why this replay cannot work on `task`, or None (asked before anything heavy is loaded)."""
        return None

    def batches(self, fresh: list[Group], version: int, context: Context) -> Iterator[Batch]:
        """The update batches of this step, one after another: each is filled, credited and applied before the next is drawn, so
        whatever credit reads (a target critic) is as fresh as the batch. By default one batch of what `select` chose."""
        chosen = self.select(fresh, version, context)
        if chosen:
            yield Batch.pack(chosen)

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        """Groups to train on. `version`: the policy version at the start of this update (ages are counted from it)."""
        raise NotImplementedError


class OnPolicy(Replay, name="on_policy"):
    """Train once on what was just generated."""

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        return fresh


def revived(saved: dict[str, Any], context: Context) -> Group:
    """The group that `anypo.data.stored.store` described, with its problem read from the task again where it is one of the task's
    and the run has a world."""
    group = revive(saved)
    if context.world is None or not 0 <= group.index < len(context.world.task):
        return group
    problem = context.world.task.train(group.index)
    return group.replace(problem=problem) if problem.prompt == group.prompt else group
