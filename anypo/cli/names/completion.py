"""What a shell offers after a tab: systems, tasks, models, runs, and the paths and parts of ``--set``."""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from anypo.cli.names.index import index
from anypo.cli.rooms import SCREEN

DEFAULT = "grpo"
ROOMS = {"control": ["control"], "generate": ["generate"], "filter_": [*SCREEN], "replay": ["replay"]}
"""Options that take a part, and the slots that it fills."""


def attach(command: str, signature: inspect.Signature) -> None:
    """Let the arguments of a command be completed; for the moment of completion only, since nobody else needs it."""
    for parameter in signature.parameters.values():
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if found := _way(command, parameter.name):
                info.autocompletion = found


def completing() -> bool:
    """Whether this process was begun by a shell that wants to complete a line."""
    return "_ANYPO_COMPLETE" in os.environ


def _way(command: str, parameter: str) -> Callable[..., Any] | None:
    own: dict[tuple[str, str], Callable[..., Any]] = {
        ("show", "name"): systems, ("verify", "names"): systems, ("solve", "name"): systems, ("measure", "name"): systems,
        ("estimators", "systems"): several, ("train", "set_"): changes, ("compare", "set_"): changes,
        ("compare", "methods"): several, ("train", "system"): methods, ("parts", "slot"): slots,
    }  # fmt: skip
    rooms = {name: parts_of(*slots_) for name, slots_ in ROOMS.items()}
    anywhere: dict[str, Callable[..., Any]] = rooms | {
        "model": models,
        "task": tasks,
        "run": runs,
        "init": runs,
        "runs": runs,
    }
    return own.get((command, parameter)) or anywhere.get(parameter)


def systems(incomplete: str) -> list[tuple[str, str]]:
    """Every system."""
    return [(s["name"], s["title"]) for s in index()["systems"] if s["name"].startswith(incomplete)]


def methods(incomplete: str) -> list[tuple[str, str]]:
    """The systems that train."""
    known = (s for s in index()["systems"] if s["kind"] in ("method", "recipe"))
    return [(s["name"], s["title"]) for s in known if s["name"].startswith(incomplete)]


def several(incomplete: str) -> list[str]:
    """Methods with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name, _ in methods(last)]


def tasks(incomplete: str) -> list[str]:
    """Tasks known by name, and files."""
    return [*_starting(index()["tasks"], incomplete), *_paths(incomplete)]


def models(incomplete: str) -> list[str]:
    """Models known by name, runs, and folders."""
    return [*_starting(index()["models"], incomplete), *runs(incomplete)]


def slots(incomplete: str) -> list[str]:
    """Slots of parts."""
    return _starting(index()["parts"], incomplete)


def parts_of(*slots: str) -> Callable[[str], list[str]]:
    """The parts of some slots."""
    return lambda incomplete: [name for slot in slots for name in _starting(index()["parts"][slot], incomplete)]


def changes(context: typer.Context, incomplete: str) -> list[str]:
    """Paths of the fields of the system that is named, step by step; after ``=`` the parts of a slot."""
    names = index()
    system = context.params.get("system") or DEFAULT
    fields: dict[str, str] = next((s["fields"] for s in names["systems"] if s["name"] == system), {})
    path, equals, value = incomplete.partition("=")
    if equals:
        return [f"{path}={part}" for part in _starting(names["parts"].get(fields.get(path, ""), {}), value)]
    depth = path.count(".") + 1
    found = {".".join(field.split(".")[:depth]) for field in fields if field.startswith(path)}
    return sorted(f"{one}=" if one in fields and not fields[one] else one for one in found)


def runs(incomplete: str) -> list[str]:
    """Run folders, the newest one by its name, and the folders on the way to them."""
    last = ["runs/LAST"] if Path("runs").is_dir() else []
    return [*_starting(last, incomplete), *_paths(incomplete)]


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """Files and folders; folders with the stroke after them."""
    found = sorted(glob.glob(glob.escape(incomplete) + "*"))
    return [f"{path}/" if Path(path).is_dir() else path for path in found]


__all__ = ["attach", "changes", "completing", "methods", "models", "runs", "several", "slots", "systems", "tasks"]
