"""Levers: what to change, as commands that can be pasted and that are valid for the composition of the run at hand."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anypo.algorithm import Algorithm
from anypo.errors import UserError
from anypo.parts import differences
from anypo.recipes import Recipe
from anypo.run.disk.names import CONFIG
from anypo.run.settings.config import RunConfig, resolve
from anypo.run.settings.presets import has_path
from anypo.systems import SYSTEMS

if TYPE_CHECKING:
    from anypo.diagnose.evidence import Evidence

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Lever:
    """`changes(algorithm)` gives the `--set` values, or None where the lever does not apply; or `shell` is a command to look
    closer with, in which {run} stands for the run folder."""

    why: str
    changes: Callable[[Algorithm], Changes | None] | None = None
    shell: str = ""


def scale(path: str, factor: float, why: str, *, low: float = 0.0, high: float = float("inf")) -> Lever:
    """Multiply a number of the composition, within [low, high]."""

    def changes(algorithm: Algorithm) -> Changes | None:
        old = value(algorithm, path)
        if not isinstance(old, (int, float)) or isinstance(old, bool):
            return None
        new = min(high, max(low, old * factor))
        new = round(new) if isinstance(old, int) else float(f"{new:.3g}")
        return {path: new} if new != old else None

    return Lever(why, changes)


def put(why: str, fields: Changes) -> Lever:
    """Put parts or values in their places; does not apply where all of them are there already."""

    def changes(algorithm: Algorithm) -> Changes | None:
        return None if all(_same(value(algorithm, path), new) for path, new in fields.items()) else fields

    return Lever(why, changes)


def swap(path: str, part: str, why: str, keep: Sequence[str] = ("prompts", "samples")) -> Lever:
    """Put another part in the place of one, with the fields `keep` as they are."""

    def changes(algorithm: Algorithm) -> Changes | None:
        old = value(algorithm, path)
        if old is None or old.part == part:
            return None
        return {path: {"part": part, **{name: getattr(old, name) for name in keep if hasattr(old, name)}}}

    return Lever(why, changes)


def add(path: str, part: Mapping[str, Any], why: str, also: Changes | None = None) -> Lever:
    """Append a part to a list of parts, unless one of its kind is there already."""

    def changes(algorithm: Algorithm) -> Changes | None:
        parts = value(algorithm, path)
        if not isinstance(parts, tuple) or any(each.part == part["part"] for each in parts):
            return None
        more = {key: new for key, new in (also or {}).items() if not _same(value(algorithm, key), new)}
        return {f"{path}.{len(parts)}": dict(part), **more}

    return Lever(why, changes)


def ask(why: str, shell: str) -> Lever:
    """A command that shows more instead of changing something."""
    return Lever(why, shell=shell)


def value(algorithm: Algorithm, path: str) -> Any:
    """What is at a dotted path of the composition, or None."""
    if not has_path(algorithm, path):
        return None
    found: Any = algorithm
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, tuple) else getattr(found, step)
    return found


def _same(old: Any, new: Any) -> bool:
    if isinstance(new, Mapping) and hasattr(old, "part"):
        return bool(old.part == new.get("part"))
    return bool(old == new or getattr(old, "part", None) == new)


def commands(levers: Sequence[Lever], run: Evidence) -> tuple[tuple[str, str], ...]:
    """(why, command) of every lever that applies to the run and gives a composition that passes its checks."""
    out = []
    for lever in levers:
        if lever.shell:
            out.append((lever.why, lever.shell.replace("{run}", shlex.quote(run.run))))
            continue
        changes = applicable(lever, run.algorithm) if run.algorithm is not None else None
        if changes and run.config.get("objects"):  # the shell has no names for what the run was given
            said = ", ".join(f"{path!r}: {inline(new)}" for path, new in changes.items())
            out.append((lever.why, f"anypo.train(..., set={{{said}}})"))
        elif changes:
            out.append((lever.why, command(run, changes)))
    return tuple(out)


def applicable(lever: Lever, algorithm: Algorithm) -> Changes | None:
    """The lever's changes, when it has any here and the changed composition is valid."""
    changes = lever.changes(algorithm) if lever.changes is not None else None
    if not changes:
        return None
    try:
        algorithm.set(changes).check()
    except UserError:
        return None
    return changes


def command(run: Evidence, changes: Changes) -> str:
    """`anypo train` for the configuration of the run with `changes` on top of what it set itself."""
    config, stage = run.config, f"stages.{run.stage}.algorithm." if run.config.get("recipe") else ""
    words = ["anypo", "train"]
    name = str(config.get("system", ""))
    model = str(config.get("model", "smollm2-135m"))
    if name in SYSTEMS:
        words += ["-s", name]
    else:  # a method of the user's own, which the run's configuration holds
        words += ["--config", str(Path(run.run) / CONFIG)]
    words += ["-m", model, "-t", str(config.get("task", "sums"))]
    plain = resolve(_named(run), model, None, task=config.get("task"))
    merged = {**own_changes(run, plain), **{f"{stage}{path}": new for path, new in changes.items()}}
    for field in ("steps", "seed", "init", "dtype", "lora", "sft_steps", "eval_size", "eval_every", "save_every"):
        given = field in config and config[field] != getattr(plain, field)
        if given and not (stage and field == "steps"):
            words += [f"--{field.replace('_', '-')}", str(config[field])]
    words += ["--no-beside"] if config.get("beside") is False else []
    for key, new in (config.get("task_options") or {}).items():
        if plain.task_options.get(key, RunConfig) != new:
            words += ["--task-set", f"{key}={inline(new)}"]
    for key, new in (config.get("chat_args") or {}).items():
        words += ["--chat-arg", f"{key}={inline(new)}"]
    for source in config.get("plugins") or ():
        words += ["--plugin", str(source)]
    for path, new in merged.items():
        words += ["--set", f"{path}={inline(new)}"]
    return shlex.join(words)


def _named(run: Evidence) -> str | Algorithm | Recipe:
    """The run's system, or what it is made of where no system has that name."""
    name = str(run.config.get("system", ""))
    if name in SYSTEMS:
        return name
    if run.config.get("recipe"):
        return Recipe.from_dict(run.config["recipe"])
    assert run.algorithm is not None
    return run.algorithm


def own_changes(run: Evidence, plain: RunConfig) -> dict[str, Any]:
    """The changes that lead from the named system, as `anypo train` would resolve it (`plain`), to the run's composition or recipe.

    Empty for an unregistered system: its commands start from the composition the user has."""
    if run.config.get("recipe"):
        return dict(differences(plain.recipe, Recipe.from_dict(run.config["recipe"]).dump()))
    if run.algorithm is None or run.config.get("system") not in SYSTEMS:
        return {}
    return dict(differences(plain.composition().dump(), run.algorithm.dump()))


def inline(new: Any) -> str:
    """A value as YAML on one line (JSON is YAML; plain words need no quotes)."""
    return new if isinstance(new, str) and new.replace("_", "").replace("-", "").isalnum() else json.dumps(new)
