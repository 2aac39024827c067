"""The record of verifications: a folder with one JSON file per claim, its last run, rewritten atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo.errors import UserError

DEFAULT = Path("anypo/claims/records")
"""Where commands write in a checkout of the library."""

SHIPPED = Path(__file__).with_name("records")
"""What the library knows of itself, wherever it is installed."""

RUNGS = ("acts", "real")
"""What else is measured of a system, each under a key of its own beside the claim."""


def exact() -> dict[str, list[str]]:
    """The tests that hold each system's mathematics against an independent derivation (written by scripts/exact.py)."""
    return json.loads(Path(__file__).with_name("exact.json").read_text())  # type: ignore[no-any-return]


def read(folder: Path) -> dict[str, Any]:
    """Entries by claim name; empty when there is no record. `UserError` when the folder, or a file in it, is not one."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a verification record; move it away or choose another with --record")
    return {path.stem: _entry(path) for path in sorted(folder.glob("*.json"))}


def _entry(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not a verification record ({error}); move it away or choose another with --record"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a verification record; move it away or choose another with --record")
    return found


def note(folder: Path, name: str, rung: str, found: Mapping[str, Any]) -> None:
    """Put what was found on one of the `RUNGS` into the entry of a system, which may have no claim yet."""
    path = folder / f"{name}.json"
    write(folder, {name: (_entry(path) if path.exists() else {"name": name}) | {rung: dict(found)}})


def write(folder: Path, entries: Mapping[str, Any]) -> None:
    """Put `entries` beside the others, each replaced whole but for the `RUNGS` it does not speak of; safe against other writers and
    against being killed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, new in entries.items():
        path = folder / f"{name}.json"
        old = _entry(path) if path.exists() else {}
        entry = {**new, **{rung: old[rung] for rung in RUNGS if rung in old and rung not in new}}
        fresh = folder / f".{name}.{os.getpid()}"
        with fresh.open("w") as file:
            file.write(json.dumps(entry, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / f"{name}.json")
