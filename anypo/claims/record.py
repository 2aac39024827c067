"""The record of verifications: one JSON file, rewritten atomically, with the last run of every claim."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anypo.errors import UserError

DEFAULT = Path("docs/verification.json")


def read(path: Path) -> dict[str, Any]:
    """Entries by claim name; empty when there is no record. `UserError` when the file is not one."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not a verification record ({error}); move it away or choose another with --record"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a verification record; move it away or choose another with --record")
    return found


def write(path: Path, entries: Mapping[str, Any]) -> None:
    """Merge `entries` into the record; safe against other writers and against being killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        merged = {**read(path), **entries}
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with fresh.open("w") as file:
            file.write(json.dumps(dict(sorted(merged.items())), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held on a sibling that is never replaced. Left in place: removing it would let two writers in."""
    import hashlib
    import tempfile

    name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    with (Path(tempfile.gettempdir()) / f"anypo-record-{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
