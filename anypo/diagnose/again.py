"""A run's steps taken again: its weights before any step, from the newest checkpoint before it or from the beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.settings.config import RunConfig
from anypo.run.stages import WARM, Running, Stages
from anypo.run.trainer import Trainer
from anypo.update.sft import finish, warm_start

Tell = Callable[[int], None]
"""Told how many steps have been taken again."""


def before(folder: RunFolder, config: RunConfig, step: int, tell: Tell = lambda _: None) -> tuple[Trainer, list[str]]:
    """The trainer of a run as it stood when `step` began, and a sentence where what was taken again is not what was recorded.

    Nothing is written. Raises `UserError` for a run whose rollouts came from a server, which gives others now.
    """
    stages = Stages(config)
    world = stages.open()
    if not world.sampler.exact:
        raise UserError(
            "the run sampled from a server, whose rollouts cannot be had again; choose a step after a checkpoint"
        )
    rows = {row["step"]: row for row in folder.metrics()}
    saved = folder.before(step)
    state = folder.load_checkpoint(saved) if saved is not None else {WARM: None}
    if WARM in state and stages.warm:
        finish(warm_start(world.policy, stages.task, config.sft_steps, config.sft_lr, config.seed))
    for model in world.models.values():
        model.begin()
    running = stages.start(0, world)
    if WARM not in state:
        running.trainer.load_state_dict(state)
    return running.trainer, _again(running, rows, step, tell)


def _again(running: Running, rows: Mapping[int, Mapping[str, Any]], step: int, tell: Tell) -> list[str]:
    """Take the steps before `step`; where they first differ from the recorded ones, in a sentence."""
    trainer, begun = running.trainer, running.trainer.number
    said: list[str] = []
    running.rows = [row for number, row in sorted(rows.items()) if number <= begun]
    while trainer.number < step - 1:
        running.plan()
        found = trainer.step()
        tell(trainer.number - begun)
        recorded = rows.get(trainer.number, {})
        running.rows.append(recorded or found)
        if not said and not all(_same(found, recorded, name) for name in HELD):
            said = [
                f"step {trainer.number} taken again is not what was recorded (another machine, version or number of threads): the "
                "weights are near those of the run, not the same"
            ]
    running.plan()
    return said


HELD = ("reward/mean", "tokens/generated", "update/grad_norm")
"""Metrics that a step taken again is held to."""


def _same(found: Mapping[str, Any], recorded: Mapping[str, Any], name: str) -> bool:
    ours, theirs = found.get(name), recorded.get(name)
    if not isinstance(ours, (int, float)) or not isinstance(theirs, (int, float)):
        return True
    return math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(ours) and math.isnan(theirs))


def cost(folder: RunFolder, step: int) -> tuple[int, float]:
    """Steps to be taken again before `step`, and the seconds that they took the first time."""
    saved = folder.before(step) or 0
    took = [row.get("time/step") or 0.0 for row in folder.metrics() if saved < row["step"] < step]
    return len(took), sum(took)


__all__ = ["before", "cost"]
