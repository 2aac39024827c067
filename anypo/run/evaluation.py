"""A model or a run, scored: `evaluate`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.context import SHELF, Memory, Shelf
from anypo.engine import device as devices
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.last import latest
from anypo.policies.classes import Wanted
from anypo.policies.control.saved import described
from anypo.roles import cast, check, recast
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.names import CONFIG
from anypo.run.record.observer import Observer
from anypo.run.settings.config import RunConfig
from anypo.run.settings.limits import fitting
from anypo.run.settings.objects import taken
from anypo.run.settings.places import lasting_task
from anypo.run.stages import limit_of, weights_of
from anypo.scoring import Evaluation, scorer_of


def evaluate(
    model: Any,
    *,
    task: Any = None,
    reward: Any = None,
    task_options: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    size: int | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    chat_args: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    trust: bool = False,
) -> Evaluation:
    """Score a run folder, a model name, a local path or a hub id on `size` held-out problems or episodes of a task (or as many as
    there are), as the task's scorer does.

    A run is scored as it scored itself, to the last digit on a CPU, in whatever is not said otherwise: `size` (else 200) and `seed`
    (else 0), its type of numbers, its embedded engine, its own generator (`max_new` tokens a turn where that is given), what it
    learned beside its weights (the shelf of its last checkpoint), the arguments of its chat template, each replaced by that of
    `chat_args`, and its other models, replaced by those of `model_as`. A run that sampled from a server is sampled here.
    trust: use what a folder from elsewhere names. model, task and reward may be objects, as in `train`; those of a run that was made
    of objects are given again.
    """
    observer, model, model_as = observer or Observer(), latest(model), latest(model_as)
    if task is None and reward is not None and isinstance(model, (str, Path)):
        task = ((_recorded(Path(model)) or {}).get("objects") or {}).get("judges")
    given = taken(model, task, reward, task_options)
    model, task, task_options = str(given.model), given.task, given.task_options
    task = lasting_task(task) if task else task
    options, name, chat, config = dict(task_options or {}), task or "sums", dict(chat_args or {}), None
    algorithm, casts = Algorithm(), recast((), model_as or {})
    if (recorded := _recorded(Path(model))) is not None:
        own = ("task", "task_options") if task else ()
        config = RunConfig.recorded(recorded, trust, unused=own)
        algorithm = config.composition()
        casts = algorithm.replace(models=recast(algorithm.models, model_as or {})).check().models
        name = task or config.task
        options = (config.task_options if name == config.task else {}) | options
        chat = config.chat_args | chat
        seed = config.seed if seed is None else seed
    elif casts:
        raise UserError(f"{model} is no run, so nothing asks for a {casts[0].role}; --model-as goes with a run folder")
    check(casts if model_as else ())
    place, seed = devices.resolve(device or (config.device if config else "auto")), seed or 0
    loaded = tasks.load(tasks.parse(name, options))
    asked = size or (config.eval_size if config else 0) or 200
    if not scorer_of(loaded).fit(loaded, asked).size:
        raise UserError(f"task '{loaded.name}' has nothing held out that could be scored")
    if config is None:
        policy = algorithm.policy.open(Wanted(loaded, model, seed, device=place, chat=chat))
        saved = None
    else:
        needed = config.lora or algorithm.models or Memory(algorithm).shelf.state_dict()
        saved = _last(Path(model)) if needed else None
        policy = _final(config, Path(model), loaded, place, chat, saved)
    say(policy, observer)
    engine = algorithm.engine if isinstance(algorithm.engine, Local) else Local()
    sampler, generate = engine.sampler(policy), algorithm.generate
    if config is not None and config.overlong != "refuse" and hasattr(policy, "chat"):
        loaded, said = fitting(loaded, policy, limit_of(sampler, policy, generate), config.overlong)
        for sentence in said:
            observer.note(sentence)
    scorer = scorer_of(loaded).fit(loaded, asked)
    if size and scorer.size < size:
        observer.note(f"task '{loaded.name}' has {scorer.size} held-out problems, not {size}")
    world = World(loaded, policy, sampler, cast(casts, policy, sampler, seed), _shelf(algorithm, saved))
    for role, state in (saved or {}).get("world", {}).get("models", {}).items():
        if role in world.models and role not in (model_as or {}):
            world.models[role].load_state_dict(state)
    acting = generate.replace(max_new=max_new) if max_new is not None else generate
    scorer = scorer.replace(samples=samples, temperature=temperature)
    observer.phase("evaluating", scorer.size * samples)
    return scorer.score(world, acting, seed, lambda done, _: observer.advance(done))


def _recorded(place: Path) -> dict[str, Any] | None:
    """The configuration of a run folder, or of the run whose control policy was exported to a folder; None for a model."""
    if (place / CONFIG).is_file():
        return RunFolder.read_config(place)
    return described(place)


def _last(run: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a run, where one is left."""
    if not (run / CONFIG).is_file():
        return None
    folder = RunFolder.read(run)
    found = folder.latest()
    return folder.load_checkpoint(found) if found is not None else None


def _final(config: RunConfig, run: Path, task: Any, place: Any, chat: Mapping[str, Any], saved: Any) -> Any:
    """A run's policy as the run left it; `UserError` where it has left none yet. Its folder ``model`` has all of it, but for adapters,
    which are merged there, and rounded: these are taken from the last checkpoint, on the model that they were trained on."""
    if (run / CONFIG).is_file() and not (run / "model").is_dir():
        raise UserError(f"the run {run} has no final weights yet; finish it with: anypo resume {shlex.quote(str(run))}")
    wanted = Wanted(task, config.model, config.seed, config.dtype, 0, place, chat)
    if not config.lora or saved is None:
        return config.composition().policy.open(wanted, str(run / "model" if (run / CONFIG).is_file() else run))
    policy = config.composition().policy.open(dataclasses.replace(wanted, lora=config.lora), config.begun_from)
    policy.load_state_dict(weights_of(saved))
    return policy


def say(policy: Any, observer: Observer) -> None:
    """What loading its weights had to say."""
    for said in getattr(policy, "notes", ()):
        observer.note(said)


def _shelf(algorithm: Algorithm, saved: Mapping[str, Any] | None) -> Shelf:
    """What a run's parts shared when it was last saved."""
    memory = Memory(algorithm)
    if saved is not None and memory.shelf.state_dict():
        memory.shelf.load_state_dict(saved.get("memory", {}).get(SHELF, {}))
    return memory.shelf


__all__ = ["evaluate", "say"]
