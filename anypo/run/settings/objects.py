"""Runs of Python objects: models, rows, tasks and functions that are held in memory take the places of names.

Each gets a name under which the run finds it, as it finds what plugins bring. What has such a name is in no other process, so the
run's configuration says what it was, and who resumes gives it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anypo import tasks
from anypo.callables import place_of
from anypo.errors import UserError, shown
from anypo.policies.loading import MODELS
from anypo.run.settings.config import RunConfig
from anypo.run.settings.presets import PRESETS, default_model, task_defaults
from anypo.tasks.functions import check, judged, name_of
from anypo.tasks.mixture import unfolded
from anypo.tasks.named import GIVEN, TASKS, Named, made
from anypo.tasks.text import files
from anypo.tasks.text.rows import Held

VERIFIER = "verifier"


@dataclass(frozen=True)
class Taken:
    """The names that stand for what was given (None where nothing was), and what the objects among it are, by the setting."""

    model: str | None
    task: str | None
    reward: str | None
    task_options: Mapping[str, Any] | None
    objects: Mapping[str, str]


def taken(model: Any, task: Any, reward: Any, options: Mapping[str, Any] | None = None) -> Taken:
    """Names for whatever of model, task and reward is an object; names are left as they are.

    model: a transformers model with its tokenizer, as a pair, or an `anypo.policies.LanguagePolicy`; it is trained in place. task: an
    `anypo.tasks.Task`, rows (mappings), or a data set of `datasets` with its splits or alone. reward: a function or a list of them
    (`anypo.tasks.functions`), with "verifier" among them where the task's own rewards count too. Raises `UserError`.
    """
    objects: dict[str, str] = {}
    task, options = unfolded(task, options)
    if model is not None and not isinstance(model, str) and not hasattr(model, "__fspath__"):
        network, tokenizer = _pair(model)
        MODELS[f"{GIVEN}model"] = lambda: (network, tokenizer)
        objects["model"], model = type(network).__name__, f"{GIVEN}model"
    own = dict(options) if options is not None else None
    if task is not None and not isinstance(task, str) and not hasattr(task, "__fspath__"):
        objects["task"], task = _task(task), f"{GIVEN}task"
    functions, kept = _functions(reward)
    if functions:
        base = task or str(PRESETS.get(model or default_model(), {}).get("task", "sums"))
        task = _judged(base, functions, kept)
        own = {**task_defaults(PRESETS.get(model or default_model(), {}), base), **(own or {})}
        objects["reward"], reward = ", ".join(map(place_of, functions)), None
        objects["judges"] = base
    as_text = lambda value: value if value is None else str(value)
    return Taken(as_text(model), as_text(task), reward, own, objects)


def give_again(config: RunConfig, model: Any, task: Any, reward: Any) -> None:
    """Put the objects that a run was begun with where it finds them. `UserError` where some are lacking, or where it had none."""
    had = {"model": model, "task": task, "reward": reward}
    for name, value in had.items():
        if value is not None and name not in config.objects:
            raise UserError(
                f"the run was begun with {name}='{getattr(config, name, None)}', a name; it goes on with that, so leave {name} out"
            )
        if value is None and name in config.objects:
            raise UserError(
                f"the run was begun with a Python object as {name} ({config.objects[name]}); give it again: "
                f"anypo.resume(RUN, {name}=...)"
            )
    base = config.objects.get("judges") if task is None and reward is not None else task
    found = taken(model, base, reward, config.task_options)
    if config.objects and found.task not in (None, config.task):
        raise UserError(f"the run's task is '{config.task}', and what is given makes '{found.task}'")


def _pair(model: Any) -> tuple[Any, Any]:
    if isinstance(model, (tuple, list)) and len(model) == 2:
        network, tokenizer = model
    elif hasattr(model, "model") and hasattr(model, "tokenizer"):
        network, tokenizer = model.model, model.tokenizer
    else:
        raise UserError(
            "model is a name, a folder, or a transformers model with its tokenizer: model=(model, tokenizer), not a "
            f"{type(model).__name__}"
        )
    if not hasattr(network, "config") or not callable(tokenizer):
        raise UserError(
            f"model=(model, tokenizer) takes a transformers model and its tokenizer, not a {type(network).__name__} and a "
            f"{type(tokenizer).__name__}"
        )
    return network, tokenizer


def _task(task: Any) -> str:
    """Make a task known under the name of what is given; what it is, in words."""
    name = f"{GIVEN}task"
    if hasattr(task, "environment") or not hasattr(task, "__iter__"):
        TASKS[name] = Named(lambda given: _none(name, given), lambda _: made(name, lambda: task))
        return type(task).__name__
    sides = _sides(task)
    TASKS[name] = Named(lambda given: _rows(name, given), lambda given: files.load(name, given, sides))
    return " and ".join(f"{len(side.held):,} rows" for side in sides)


def _sides(task: Any) -> tuple[Held, ...]:
    """The rows, and those that are held out where a mapping of splits names them."""
    if isinstance(task, Mapping):
        splits = {str(name): rows for name, rows in task.items()}
        held = next((splits[name] for name in ("heldout", "test", "validation") if name in splits), None)
        if "train" not in splits:
            raise UserError(
                f"a task of several splits has one named 'train', and not only {', '.join(splits) or 'none'}"
            )
        return (_held(splits["train"], "train"), *((_held(held, "heldout"),) if held is not None else ()))
    return (_held(task, "rows"),)


def _held(rows: Any, name: str) -> Held:
    if not hasattr(rows, "__len__"):
        rows = list(rows)
    return Held(name, held=rows)


def _none(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if given:
        raise UserError(f"a task that is an object has no options; leave task_options out ({', '.join(given)})")
    return {"name": name}


def _rows(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    files.options_of(name, given)
    return {"name": name, **given}


def _functions(reward: Any) -> tuple[list[Callable[..., Any]], bool]:
    """The functions in what was given as reward, and whether the task's own rewards count beside them."""
    if reward is None or isinstance(reward, str):
        return [], False
    every = list(reward) if isinstance(reward, Sequence) else [reward]
    functions = [one for one in every if one != VERIFIER]
    for one in functions:
        if not callable(one):
            raise UserError(f"reward is a name, a function, or a list of functions and 'verifier', not {shown(one)}")
        check(one)
        name_of(one)
    return functions, VERIFIER in every


def _judged(base: str, functions: list[Callable[..., Any]], kept: bool) -> str:
    """Make a task known whose answers are judged by functions; its name."""
    name = base if base.startswith(GIVEN) else f"{GIVEN}{base.rpartition('/')[2].partition('.')[0]}"
    below = TASKS.get(base) if base.startswith(GIVEN) else None

    def parse(given: Mapping[str, Any]) -> dict[str, Any]:
        return {**(below.parse(given) if below else tasks.parse(base, given)), "name": name}

    def load(given: Mapping[str, Any]) -> Any:
        return judged(below.load(given) if below else tasks.load(base, given), functions, kept)

    TASKS[name] = Named(parse, load)
    return name


__all__ = ["Taken", "taken"]
