"""From a name or a mapping to a task: which kind it is, and its checks before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anypo.callables import imported, spelled
from anypo.errors import UserError, shown, unknown
from anypo.plugins import discover, look_up
from anypo.tasks import environments, mixture
from anypo.tasks.base import Task
from anypo.tasks.named import ALIASES, GIVEN, TASKS, made
from anypo.tasks.text import files, generators, pairs, reasoning
from anypo.tasks.text.options import nested


def names() -> list[str]:
    """Every task known by name."""
    discover()
    return sorted([*generators.names(), *ALIASES, *TASKS, *files.BENCHMARKS, mixture.NAME])


def generated(name: str | None) -> bool:
    """Whether the task of that name is a dataset of reasoning-gym, whose problems are made as they are asked for."""
    if name is None or name in ALIASES:
        return name is not None
    return name.isidentifier() and not files.is_file(name) and name in generators.names()


def parse(spec: str | Mapping[str, Any], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `load` takes, checked: a plain mapping with the key ``name`` and the options of that task.

    `spec`: the name of a reasoning-gym dataset, of a benchmark (``gsm8k``) or of a registered task, the path of a .jsonl, .parquet or
    .csv file or of a `datasets` folder, the id of a data set on a hub (``owner/name``) or of a Gymnasium environment,
    ``minari:NAME`` or the folder of a Minari data set, ``module:factory`` of the user's own task, ``mix`` (see
    `anypo.tasks.mixture`), ``{mix: [...]}`` as a text or a mapping, or a mapping with the key ``name``. `options` may use dotted names
    (``verifier.extract``) and YAML texts for values. Raises `UserError` naming the nearest spelling of an unknown task or field.
    """
    if isinstance(spec, str):
        spec = mixture.spelled_out(spec)
    if isinstance(spec, Mapping) and mixture.NAME in spec:
        spec, listed = mixture.unfolded(spec, None)
        options = {**(listed or {}), **(options or {})}
    if isinstance(spec, Mapping):
        if not isinstance(spec.get("name"), str):
            raise UserError("a task mapping needs the key 'name' (a dataset, a file or module:factory)")
        own = {key: value for key, value in spec.items() if key != "name"}
        return parse(spec["name"], {**own, **(options or {})})
    if spec in ALIASES or spec in files.BENCHMARKS:
        dataset, configured = (ALIASES | files.BENCHMARKS)[spec]
        return parse(dataset, {**configured, **(options or {})})
    given = nested(options or {})
    if "name" in given:
        raise unknown("field of task", "name", (), "The task is named by itself, not among its options.")
    if spec == mixture.NAME:
        return mixture.parse(given, parse)
    if environments.is_environment(spec):
        return environments.parse(spec, given)
    if files.is_file(spec):
        return (pairs if pairs.is_pairs(spec, given, fetch=False) else files).parse(spec, given)
    if ":" in spec:
        _check_spelling(spec)
        return {"name": spec, **given}
    if spec.startswith(GIVEN) and spec not in TASKS:
        raise UserError(
            f"the task '{spec}' was Python objects when the run began, and is in no other process: give them again, as in "
            "anypo.resume(RUN, task=..., reward=...) or anypo.evaluate(RUN, task=...)"
        )
    if spec in TASKS or spec not in generators.names():
        hint = "A file needs the ending .jsonl, .parquet or .csv."
        return look_up(TASKS, "task", spec, hint, [*generators.names(), *ALIASES, *files.BENCHMARKS]).parse(given)
    return reasoning.parse(spec, given)


def load(spec: str | Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Task:
    """The task meant by `spec` (see `parse`), ready to give problems; one problem of either side is made or read here."""
    plain = parse(spec, options)
    name = plain.pop("name")
    if name == mixture.NAME:
        return mixture.load(plain, load)
    if environments.is_recorded(name):
        from anypo.tasks.minari import MinariTask

        return MinariTask(name, plain)
    if environments.is_environment(name):
        from anypo.tasks.gym import GymTask

        return GymTask(name, plain)
    if files.is_file(name):
        return (pairs if pairs.is_pairs(name, plain) else files).load(name, plain)
    if ":" in name:
        return made(name, lambda: imported(name)(**plain))
    if name in TASKS:
        return made(name, TASKS[name].load, plain)
    return reasoning.load(name, plain)


def _check_spelling(factory: str) -> None:
    try:
        spelled(factory)
    except ValueError as error:
        reason = str(error).replace("it as module:function", "a task of your own as module:factory")
        raise UserError(f"task {shown(factory)}: {reason}") from None
