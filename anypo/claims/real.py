"""Does a named system run in earnest? A few steps of it in its own regime, with a real model or in a real environment.

What runs is what the recorded command runs: the method's regime, with fewer prompts and answers, and without held-out scores, in which
a few steps show nothing. `anypo.run.beside` measures how far it was from its base.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from anypo.claims.places import PLACES, Place, told
from anypo.errors import UserError
from anypo.run.beside import last_stage, sentence, standing
from anypo.run.settings.config import RunConfig
from anypo.run.stages import Stages
from anypo.systems import SYSTEMS, find
from anypo.update.sft import finish, warm_start


def runnable() -> list[str]:
    """The systems that have steps to run."""
    return [name for name, system in SYSTEMS.items() if system.kind in ("method", "recipe")]


def real(name: str) -> dict[str, Any]:
    """A few steps of a method or recipe as ``command`` gives them: ``ran``, ``task``, ``model``, ``steps``, ``base``, ``rooms`` (in
    how many steps each differed), ``cosine`` and ``distance`` (of the coefficients, means over the steps that learned), ``idle``,
    ``regime`` (what was said beforehand not to act), ``said``, ``seconds`` (of everything, loading included). A refusal is told in
    ``said``. `UserError` for a system that has no steps."""
    began, system, place = time.perf_counter(), find(name), PLACES.get(name, Place())
    if system.kind not in ("method", "recipe"):
        raise UserError(f"'{name}' is {system.article} {system.kind}, which has no steps to run; {system.advice}")
    entry: dict[str, Any] = {"ran": False, "command": place.command(system)}
    with told(entry), place.prepared() as here:
        config = here.config(system, None, place.settings(system), place.steps)
        entry |= {"task": place.task or config.task, "model": config.model} | _run(config)
    return entry | {"seconds": round(time.perf_counter() - began, 1)}


def _run(config: RunConfig) -> dict[str, Any]:
    stages = Stages(config)
    world = stages.open()
    idle = stages.check(world, 0)
    rows: list[Mapping[str, Any]] = []
    _warm(config, stages, world)
    for role in world.models.values():
        role.begin()
    running = stages.start(0, world)
    while running is not None:
        of_stage: list[Mapping[str, Any]] = []
        while not running.over:
            metrics = running.trainer.step() | running.trainer.witness.said
            running.rows.append(metrics)
            of_stage.append(metrics)
        rows, following = of_stage, stages.after(running)
        running = following  # type: ignore[assignment]
    return {"ran": True, "steps": config.steps, "regime": idle} | _seen(last_stage(rows))


def _warm(config: RunConfig, stages: Stages, world: Any) -> None:
    """The supervised steps that the run begins with."""
    if config.sft_steps:
        finish(warm_start(world.policy, stages.task, config.sft_steps, config.sft_lr, config.seed))


def _seen(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the steps stood to the base."""
    found = standing(rows)
    if found is None:
        return {"said": "not compared with a base"}
    far = [row["base/distance"] for row in rows if row.get("base/distance") is not None]
    return {
        "base": found.name,
        "rooms": dict(found.rooms or {}),
        "same": found.same,
        "cosine": None if math.isnan(found.cosine) else round(found.cosine, 6),
        "distance": round(sum(far) / len(far), 6) if far else None,
        "idle": list(found.idle),
        "said": sentence(found),
    }


__all__ = ["real", "runnable"]
