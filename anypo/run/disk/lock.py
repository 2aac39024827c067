"""One process at a time in a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from anypo.errors import UserError
from anypo.files import writing


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Lock:
    """A file that names the process using the folder.

    A process that died without releasing it (kill -9, power loss) is recognised by its id and start time, and its lock is
    taken over. The file lock around reading and writing the name only settles races between takers: it is not held, because
    a forked child of a killed run would go on holding it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self) -> None:
        """Take the lock. Raises `UserError` when a live process, or one on another machine, has it."""
        with writing(self.path), self._exclusive() as file:
            owner = _parse(file.read())
            if owner and alive(owner):
                where = "" if owner["host"] == socket.gethostname() else f" on {owner['host']}"
                advice = "wait for it or stop it" if not where else f"if it is gone, delete {self.path}"
                raise UserError(
                    f"{self.path.parent} is in use by process {owner['pid']}{where} since {owner['since']}; {advice}"
                )
            process = psutil.Process()
            name = {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname(), "since": now()}
            file.seek(0)
            file.truncate()
            file.write(json.dumps(name))
            file.flush()

    def release(self) -> None:
        """Give the lock back if this process has it."""
        if self.path.exists():
            with self._exclusive() as file:
                owner = _parse(file.read())
                if owner and owner["pid"] == os.getpid():
                    file.truncate(0)

    def held(self) -> bool:
        """Whether some live process has the lock."""
        owner = _parse(self.path.read_text()) if self.path.exists() else None
        return owner is not None and alive(owner)

    @contextmanager
    def _exclusive(self) -> Iterator[Any]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(handle, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _parse(text: str) -> dict[str, Any] | None:
    try:
        owner = json.loads(text)
    except ValueError:  # empty (released), or torn by a crash
        return None
    return owner if isinstance(owner, dict) and {"pid", "started", "host", "since"} <= owner.keys() else None


def alive(owner: dict[str, Any]) -> bool:
    """Whether the named process runs (one on another machine cannot be asked and counts as running)."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(owner["pid"])
        return abs(process.create_time() - owner["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
