"""Does a named system act? Its own composition is run until it does what its base would not, in a run of `STEPS` steps.

A system acts in a step in which some room is not the base's (`anypo.run.beside`), provided that it
differs around the losses or that one of its own parts has made a difference by itself: a trust region around a ratio of 1 does not
act because the mean or the baseline beside it, which other methods have as well, does. What is compared with no base, because it is
one or because it fills none of its base's columns, is itself by definition: it acts where its weights move.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from anypo.algorithm import Algorithm
from anypo.claims.places import PLACES, Place, told
from anypo.generate.base import World
from anypo.parts import at
from anypo.run.beside import Standing, last_stage, standing
from anypo.run.beside.base import PLAIN
from anypo.run.beside.beside import TOLERANCE
from anypo.run.beside.words import PART
from anypo.run.settings.config import RunConfig
from anypo.run.stages import Stages
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.sft import finish, warm_start

STEPS = 20

AROUND = tuple(f"base/{room}" for room in ("prompts", "rollouts", "signals", "kept"))
"""Rooms around the losses: whoever differs there acts."""


def follow(algorithm: Algorithm, world: World, total: int, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Run `algorithm`, planned for `total` steps, until it acts, and say what was seen: ``acts`` (None where there is nothing to
    compare it with and its weights moved), ``first`` (the step, 0 for none), ``rooms`` (that differed in it, or in any), ``idle``
    (parts without a difference so far), ``base`` and ``said``."""
    trainer = Trainer(algorithm, world, seed, total, beside=True)
    own = owned(algorithm, trainer.witness.parts)
    begun = [parameter.detach().clone() for parameter in world.policy.parameters()]
    rows: list[Mapping[str, Any]] = []
    first = 0
    while len(rows) < steps and not first:
        rows.append(trainer.step() | trainer.witness.said)
        alone = not trainer.witness.said["base"]
        first = len(rows) if (_moved(begun, world) if alone else _acts(rows, own)) else 0
    found = standing(last_stage(rows))
    assert found is not None
    seen = standing(rows[first - 1 : first]) if first else found
    assert seen is not None
    rooms = list(seen.rooms or ())
    return {
        "acts": bool(first) if found.name or not first else None,
        "base": found.name,
        "steps": len(rows),
        "first": first,
        "rooms": rooms,
        "idle": list(found.idle),
        "said": said(algorithm.name, found, first, rooms, len(rows)),
    }


def _moved(begun: Sequence[torch.Tensor], world: World) -> bool:
    return any(not torch.equal(before, now) for before, now in zip(begun, world.policy.parameters()))


def owned(algorithm: Algorithm, paths: Iterable[str]) -> list[str]:
    """Those of the paths at which the method has what is its own: no default, and not as any of `PLAIN` has it."""
    own, plain = algorithm.dump(), [one.dump() for one in (Algorithm(), *(find(name).algorithm() for name in PLAIN))]
    return [path for path in paths if at(own, path) not in [at(one, path) for one in plain]]


def _acts(rows: Sequence[Mapping[str, Any]], own: Sequence[str]) -> bool:
    """Whether the run was not its base in the last step, and what the method is about has made a difference."""
    if rows[-1].get("base/same") != 0:
        return False
    around = any(rows[-1][name] > TOLERANCE for name in AROUND)
    return around or not own or any(row.get(f"{PART}{path}", 0.0) > TOLERANCE for row in rows for path in own)


def said(name: str, found: Standing, first: int, rooms: Sequence[str], steps: int) -> str:
    """One sentence about a system."""
    if not found.name:
        moved = f"its weights move from step {first} on" if first else f"its weights did not move in {steps} steps"
        return f"{name} is compared with no base ({found.why}); {moved}"
    where = f" ({', '.join(rooms)})" if rooms else ""
    if first:
        return f"{name} is not {found.name} from step {first} on{where}"
    idle = f"; without a difference: {', '.join(found.idle)}" if found.idle else ""
    if rooms:
        return f"{name} is not {found.name}{where}, but its own mechanism did nothing in {found.steps} steps{idle}"
    return f"{name} did nothing of its own in {found.steps} steps beside {found.name}{idle}"


def acts(name: str, steps: int = STEPS, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`follow` for a run of `steps` steps of a named method, on the task its kind needs (`anypo.claims.places`) or the model's own,
    and where it was: ``task``, ``model``, ``regime`` (what its parts say beforehand that they cannot do), ``seconds``. A refusal is
    told in ``said``, and so is the reason of a method that is to be still."""
    began, system, place = time.perf_counter(), find(name, "method"), PLACES.get(name, Place())
    entry: dict[str, Any] = {"acts": None, "base": system.base, "steps": 0, "first": 0, "rooms": [], "idle": []}
    entry["model"] = place.model
    with told(entry), place.prepared() as here:
        wanted = dict(system.needs) | dict(place.changes) | dict(changes or {})
        if place.world is not None:
            algorithm, world = place.world(system.algorithm().set(wanted), 0)
            entry |= {"task": world.task.name} | follow(algorithm, world, steps, steps)
        else:
            entry |= _run(here.config(system, place.model, wanted, steps), steps)
            entry["task"] = place.task or entry["task"]
    if entry["acts"] is False and "acts" in system.excuses:
        entry |= {"acts": None, "said": f"by design: {system.excuses['acts']}"}
    return entry | {"seconds": round(time.perf_counter() - began, 1)}


def _run(config: RunConfig, steps: int) -> dict[str, Any]:
    stages = Stages(config)
    world, stage = stages.open(), stages.legs[0].stage
    _warm(config, stages, world)
    for role in world.models.values():
        role.begin()
    found = follow(stage.algorithm, world, stage.steps, steps, config.seed)
    return {"task": config.task, "model": config.model, "regime": stages.sleepers()} | found


def _warm(config: RunConfig, stages: Stages, world: World) -> None:
    """Supervised steps, as the run would begin with; those of one model on one task are taken once."""
    if not stages.warm:
        return
    key = (config.model, config.task, repr(sorted(config.task_options.items())), config.sft_steps, config.seed)
    if key not in _warmed():
        finish(warm_start(world.policy, stages.task, config.sft_steps, config.sft_lr, config.seed))
        _warmed()[key] = {name: value.clone() for name, value in world.policy.state_dict().items()}
    world.policy.load_state_dict(_warmed()[key])


@lru_cache(maxsize=1)
def _warmed() -> dict[Any, dict[str, Any]]:
    return {}


__all__ = ["STEPS", "acts", "follow"]
