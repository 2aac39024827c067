"""What ``runs/LAST`` means, wherever a run is named: the newest run below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo.errors import UserError

LAST = "LAST"


def latest(value: Any) -> Any:
    """`value` with ``FOLDER/LAST`` replaced by the newest run below FOLDER, also in ``ROLE=FOLDER/LAST``, in lists and in the values
    of mappings; anything else as it is. `UserError` where there is no run."""
    if isinstance(value, list):
        return [latest(item) for item in value]
    if isinstance(value, Mapping):
        return {name: latest(item) for name, item in value.items()}
    text = str(value) if isinstance(value, (str, Path)) else ""
    if text != LAST and not text.endswith(f"/{LAST}"):
        return value
    role, equals, place = text.rpartition("=")
    path = Path(place)
    if path.exists():  # somebody's own folder of that name
        return value
    runs = [file for file in path.parent.glob("*/config.yaml") if file.is_file()]
    if not runs:
        raise UserError(f"there is no run below {path.parent}, so none is the last")
    newest = max(runs, key=lambda file: (file.stat().st_mtime_ns, file.parent.name)).parent
    return Path(newest) if isinstance(value, Path) else f"{role}{equals}{newest}"


__all__ = ["LAST", "latest"]
