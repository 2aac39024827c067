"""A run as it is written down: one YAML file that says all of it or some of it, the command line or Python the rest.

Three kinds of files mean a run: settings by name (`model`, `task`, `steps`, ...) with a method, an algorithm or a recipe alone, and
the ``config.yaml`` of a run. A method is a name (``system: dapo``), a name with changes (``set:`` beside it), or written out
(``algorithm:``, ``recipe:``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from anypo.algorithm import ROOMS, Algorithm
from anypo.errors import UserError, brief, shown, unknown
from anypo.policies.loading import MODELS
from anypo.reading import number, text_of, yaml_value
from anypo.recipes import Recipe
from anypo.run.disk.names import CONFIG, MANIFEST
from anypo.run.disk.trust import check as check_trust
from anypo.run.settings.config import RunConfig, resolve
from anypo.run.settings.length import LENGTHS, once
from anypo.run.settings.methods import Draft, is_delta
from anypo.run.settings.places import lasting_model, placed
from anypo.systems import SYSTEMS

METHOD = ("system", "base", "algorithm", "recipe")
"""Fields of which one names or writes out the method."""

BESIDE = ("set", "model_as", "out")
"""Fields that no run's configuration has: what they say is in its algorithm, or where it lies."""


@dataclass(frozen=True)
class Written:
    """What a file says of a run. method: None where it says nothing of it; changes: of the method, by dotted path; settings: fields of
    `RunConfig`; place: the file."""

    method: str | Algorithm | Recipe | Draft | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    model_as: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: str = ""
    place: Path = Path()

    def resolve(
        self,
        system: str | None = None,
        changes: Mapping[str, Any] | None = None,
        model_as: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        **settings: Any,
    ) -> RunConfig:
        """The whole configuration: what is given here comes before what is written, and where the two differ it is said."""
        given = placed({key: value for key, value in settings.items() if value is not None})
        for key in ("task_options", "chat_args"):
            if key in given and self.settings.get(key):
                given[key] = {**self.settings[key], **given[key]}
        if "task" in given and given["task"] != self.settings.get("task"):
            given.setdefault("task_options", None)  # those of the file are of its own task
        own = {
            key: value for key, value in self.settings.items() if key not in LENGTHS or not set(LENGTHS) & set(given)
        }
        over = [
            said for key in given if self._other(key, given) for said in _others(key, given[key], self.settings[key])
        ]
        over += [
            f"{key}={_short(given[key])} ({other}={_short(self.settings[other])})"
            for key in LENGTHS
            for other in LENGTHS
            if given.get(key) and self.settings.get(other) and other != key
        ]
        if system is not None and self.method is not None and system != self.method:
            over.insert(0, f"system={system} ({_named(self.method)})")
        over += [
            f"{path}={_short(value)} ({_short(self.changes[path])})"
            for path, value in (changes or {}).items()
            if path in self.changes and self.changes[path] != value
        ]
        if over:
            say(f"in place of what {self.place} says, in brackets: {', '.join(over)}")
        method = system if system is not None else self.method
        merged = {**own, **given}
        model = merged.pop("model", None)
        return resolve(
            "grpo" if method is None else method,
            model,
            {**self.changes, **(changes or {})},
            {**self.model_as, **(model_as or {})},
            **merged,
        )

    def _other(self, key: str, given: Mapping[str, Any]) -> bool:
        return key in self.settings and given[key] is not None and given[key] != self.settings[key]


def _others(name: str, new: Any, old: Any) -> list[str]:
    """What is other, with what it was in brackets; of mappings entry by entry."""
    if not (isinstance(new, Mapping) and isinstance(old, Mapping)):
        return [f"{name}={_short(new)} ({_short(old)})"]
    return [
        f"{name}.{key}={_short(new.get(key))} ({_short(old.get(key))})"
        for key in dict.fromkeys([*old, *new])
        if new.get(key) != old.get(key)
    ]


def is_written(system: Any) -> TypeGuard[str | Path]:
    """Whether what is named is a run file or a run folder, and not a system."""
    if not isinstance(system, (str, Path)):
        return False
    return str(system).endswith((".yaml", ".yml")) or (Path(system) / CONFIG).is_file()


def read(place: Path, trust: bool = False) -> Written:
    """What the file at `place` says, or the ``config.yaml`` of the run folder at `place`. Relative paths in it are looked for beside
    the file first. Raises `UserError`; of a run's own configuration also where it names code that is not trusted."""
    if place.is_dir() and (place / CONFIG).is_file():
        place = place / CONFIG
    text = text_of(place, "algorithm file or run file")
    try:
        plain = yaml_value(text)
    except ValueError as error:
        raise UserError(f"{place} is not valid YAML: {brief(error)}") from None
    if not isinstance(plain, dict):
        raise UserError(
            f"{place} is no run file: that is a mapping of settings such as model, task, system and steps (docs/run-file.md), and an "
            "algorithm file one of rooms to parts (anypo systems show NAME --yaml)"
        )
    if place.name == CONFIG and (place.parent / MANIFEST).is_file():
        check_trust(plain, trust)
    try:
        return meant(plain, place)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def meant(plain: Mapping[str, Any], place: Path = Path()) -> Written:
    """What a mapping says of a run (see `Written`). `UserError` for a field that none has, and for two methods in one file."""
    if "stages" in plain:
        return Written(dict(plain), place=place)
    if not plain or set(map(str, plain)) & {*ROOMS, "models"} or set(plain) <= {"part", "name"}:
        return Written(Algorithm.from_dict(plain), place=place)
    known = {*RunConfig.model_fields, *METHOD, *BESIDE}
    for name in plain:
        if name not in known:
            raise unknown("field of a run file", name, known)
    given = {
        name: value for name, value in plain.items() if value is not None and name not in (*METHOD, *BESIDE, "filled")
    }
    if "sft_steps" in _mapping(plain, "filled"):  # nobody asked for them, so the task may do without
        given.pop("sft_steps", None)
    if given.get("epochs") or given.get("budget"):
        if "filled" not in plain:  # else it is the configuration of a run, and its steps are those that followed
            once(given)
        given.pop("steps", None)
    changes, models = _mapping(plain, "set"), _mapping(plain, "model_as")
    method = _method(plain)
    if isinstance(method, Mapping) and "stages" in method:
        given.pop("steps", None)  # the sum of those of the stages
    return Written(
        method,
        {path: number(value) for path, value in changes.items()},
        {role: lasting_model(str(model), MODELS, place.parent) for role, model in models.items()},
        placed(given, place.parent),
        str(plain.get("out") or ""),
        place,
    )


def json_schema() -> dict[str, Any]:
    """JSON schema of a run file, for editors: settings with a method, or an algorithm or a recipe alone."""
    whole = Algorithm.json_schema()
    definitions = whole.pop("$defs")
    named = {
        "type": "string",
        "enum": sorted(name for name, entry in SYSTEMS.items() if entry.kind in ("method", "recipe")),
    }
    changes = {"type": "object", "description": "values by dotted path, e.g. objective.trust.high: 0.3"}
    base = {
        "type": "object",
        "properties": {"base": named, "set": changes},
        "required": ["base"],
        "additionalProperties": False,
    }
    rooms = {key: value for key, value in whole.items() if key not in ("$schema", "title")}
    settings = RunConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= settings.pop("$defs", {})
    properties = {key: value for key, value in settings["properties"].items() if key not in ("filled", "objects")}
    stage = {"type": "object", "required": ["name", "algorithm"]}
    recipe = {"type": "object", "properties": {"stages": {"type": "array", "items": stage}}, "required": ["stages"]}
    properties |= {
        "system": named,
        "base": named,
        "set": changes,
        "algorithm": {"anyOf": [named, base, rooms]},
        "recipe": {"anyOf": [named, recipe]},
        "model_as": {"type": "object", "description": "other models by role, e.g. teacher: path/to/run"},
        "out": {"type": "string", "description": "the run folder"},
    }
    run = {"type": "object", "properties": properties, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "anypo run",
        "anyOf": [run, rooms, recipe],
        "$defs": definitions,
    }


def _method(plain: Mapping[str, Any]) -> str | Algorithm | Draft | None:
    """The method of a run file: what is written out comes before what is named, for a run's configuration has both."""
    if plain.get("recipe") is not None:
        found = plain["recipe"]
        if not isinstance(found, (str, dict)):
            raise UserError(f"recipe is a name or a mapping with stages, not {shown(found)}")
        return found
    found = plain.get("algorithm")
    if isinstance(found, dict) and found:
        return found if is_delta(found) else Algorithm.from_dict(found)
    names = {str(plain[key]) for key in METHOD if plain.get(key)}
    for key in METHOD:
        if plain.get(key) and not isinstance(plain[key], str):
            raise UserError(f"{key} is the name of a system, not {shown(plain[key])}")
    if len(names) > 1:
        raise UserError(f"there are two methods in one file: {' and '.join(sorted(names))}; name one")
    return names.pop() if names else None


def _mapping(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = plain.get(key) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{key} is a mapping, not {shown(found)}")
    return {str(name): value for name, value in found.items()}


def _named(method: Any) -> str:
    if isinstance(method, str):
        return method
    if isinstance(method, Mapping):
        return str(method.get("name") or method.get("base") or "its own recipe")
    return str(method.name)


def _short(value: Any) -> str:
    return shown(value, 60).strip("'")


__all__ = ["Written", "is_written", "meant", "read"]
