"""Names without the library behind them: systems, parts, tasks and models, for lists and for completion in a shell.

Registering everything imports everything, which takes seconds. What came of it is therefore kept in the user's cache, under a digest
of the library's own files and records, so that an index is never of another state than they are. Plugins are in no index: where there
are any, names are looked up as everywhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from anypo import plugins
from anypo.errors import unknown
from anypo.files import replace_text

HERE = Path(__file__).resolve().parents[2]
TASK_HINT = "A file needs the ending .jsonl, .parquet or .csv."
"""What `anypo.tasks.loading` says of a name it does not know, too; it takes seconds to import."""

LEAST = 2
"""Indices of other states of the library that are kept: those of other checkouts."""


def index() -> dict[str, Any]:
    """The names (see `build`), from the cache where it has them."""
    if _extended():
        return build()
    place = _place()
    with suppress(OSError, ValueError):
        found = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    found = build()
    with suppress(OSError):  # a home that cannot be written to costs time and nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, json.dumps(found, ensure_ascii=False))
        old = sorted(place.parent.glob("names-*.json"), key=lambda file: file.stat().st_mtime)
        for file in old[: -LEAST - 1]:
            file.unlink(missing_ok=True)
    return found


def refuse(system: str | None, paths: Sequence[str], task: str | None = None) -> None:
    """Raise at once the `UserError` that a mistyped system, task or path of ``--set`` gets anyway, where the names are at hand;
    whatever is not plainly wrong is left to those who know the parts."""
    if _extended():
        return
    try:
        found = json.loads(_place().read_text(encoding="utf-8"))
        systems = {entry["name"]: entry for entry in found["systems"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    name = system or "grpo"
    if name not in systems:
        raise unknown("system", name, systems, "`anypo systems list` shows all.")
    if task is not None and task.isidentifier() and task not in found["tasks"] and not Path(task).exists():
        raise unknown("task", task, found["tasks"], TASK_HINT)
    fields = systems[name]["fields"]
    if systems[name]["kind"] != "method" or any(fields.get(path) for path in paths):
        return  # another part may be named, which has other fields
    fitted = found["fitted"] if task is None or task in found["tasks"] else found["rooms"]
    for path in paths:
        room, above = path.partition(".")[0], path.rpartition(".")[0]
        if room not in (*found["rooms"], "name", "models"):
            if not any(field.endswith(f".{path}") for field in fields):
                raise unknown("field", path, [field for field in fields if field != "name"])
        elif above and path not in fields and not any(path.startswith(f"{part}.") for part in fitted):
            beside = [field for field in fields if field.rpartition(".")[0] == above]
            if beside:
                raise unknown("field", path, beside)


def build() -> dict[str, Any]:
    """systems: a mapping for each, with its rungs and those it lacks, the paths of a method's fields and the slots of those that hold
    a part. parts: the first line of documentation by slot and name. tasks, models, kinds, rooms: names. fitted: the paths at
    which the preset of a model puts a part."""
    import inspect

    from anypo import tasks
    from anypo.algorithm import ROOMS
    from anypo.claims import record
    from anypo.claims.rungs import rungs, unfinished
    from anypo.parts import SLOTS, Part
    from anypo.plugins import discover
    from anypo.policies.loading import MODELS
    from anypo.run.settings.presets import PRESETS
    from anypo.systems import KINDS, SYSTEMS

    discover()
    systems: list[dict[str, Any]] = []
    entries, tests = record.read(record.SHIPPED), record.exact()
    for name, entry in sorted(SYSTEMS.items()):
        keys = ("name", "kind", "title", "paper", "family", "base", "description")
        plain = {key: getattr(entry, key) for key in keys}
        made = entry.build()
        parts = [part for _, part in made.walk()] if isinstance(made, Part) else []
        fields = _fields(made) if entry.kind in ("method", "recipe") else {}
        uses = sorted({part.part for part in parts if part.part})
        shown = rungs(entry.kind, entries.get(name, {}), tests.get(name, ()))
        known = {"rooms": sorted(entry.rooms()), "uses": uses, "fields": fields}
        systems.append({**plain, "name": name, **known, "rungs": shown, "unfinished": unfinished(shown)})
    parts_ = {
        slot: {name: (inspect.getdoc(kind) or "").split("\n")[0] for name, kind in sorted(base.parts.items())}
        for slot, base in sorted(SLOTS.items())
    }
    slots = {path for system in systems for path, slot in system["fields"].items() if slot}
    own = [places for preset in PRESETS.values() for places in (preset["set"], *preset.get("objectives", {}).values())]
    fitted = sorted({path for places in own for path in places} & slots)
    kinds = {"kinds": list(KINDS), "rooms": list(ROOMS), "fitted": fitted}
    return {"systems": systems, "parts": parts_, "tasks": tasks.names(), "models": sorted(MODELS), **kinds}


def _fields(made: Any) -> dict[str, str]:
    """The dotted path of every field, and the slot of the part that stands there ('' where none does)."""
    out: dict[str, str] = {}
    for path, part in made.walk():
        for field in type(part).model_fields:
            value = getattr(part, field)
            out[f"{path}.{field}" if path else field] = str(getattr(value, "slot", "") or "")
    return out


def _extended() -> bool:
    """Whether plugins may have added names."""
    return bool(
        os.environ.get(plugins.VARIABLE) or plugins.chosen() or list(metadata.entry_points(group=plugins.GROUP))
    )


def _place() -> Path:
    digest = hashlib.sha256(f"{sys.version_info} {HERE}".encode())
    for folder, inner, files in os.walk(HERE):
        inner.sort()
        for name in sorted(files):
            if name.endswith((".py", ".json")):
                about = os.stat(os.path.join(folder, name))
                digest.update(f"{folder}/{name} {about.st_mtime_ns} {about.st_size}".encode())
    home = Path(os.environ.get("ANYPO_CACHE") or "~/.cache/anypo").expanduser()
    return home / f"names-{digest.hexdigest()[:16]}.json"


__all__ = ["build", "index", "refuse"]
