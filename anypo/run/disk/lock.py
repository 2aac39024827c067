"""One process at a time in a folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from anypo.errors import UserError
from anypo.files import writing

try:
    import fcntl
except ImportError:  # a system without file locks: the name in the file decides alone
    fcntl = None  # type: ignore[assignment]

PATIENCE, PAUSE = 50, 0.02
"""How often, and how many seconds apart, a taker tries: another one may not have written its name yet."""

_held: set[int] = set()
"""Files that this process keeps locked."""


def _let_go() -> None:
    for handle in _held:
        os.close(handle)  # the parent's copy keeps the lock
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)  # or a child would hold the folder of a run that was killed


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Lock:
    """A file that names the process using the folder, and that this process keeps locked for as long.

    A process that died without releasing it (kill -9, power loss) is recognised twice: the kernel drops the file lock with the
    process (it is closed in children that are forked, and in programs that are started), and the name holds its id, when it
    began in ticks since the machine started, and which start of the machine that was. No clock is asked, so setting it changes
    nothing. Where a file system knows no file locks the name decides; a name that cannot be read names nobody.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `UserError` when a live process, or one on another machine, has it."""
        with writing(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            self._take(handle)
            with writing(self.path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(name()).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held.add(handle)

    def release(self) -> None:
        """Give the lock back if this process has it, wherever the folder is by now."""
        if self._handle is None or self._handle not in _held:  # in a child it is the parent's
            return
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
        _held.discard(self._handle)
        os.close(self._handle)
        self._handle = None

    def held(self) -> bool:
        """Whether some live process has the lock."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:  # there is none, or nobody can tell
            return False
        try:
            owner = _parse(_content(handle))
            if owner is None:
                return False
            return alive(owner, _elsewhere(owner) and _near(owner) and _locked(handle, shared=True))
        finally:
            os.close(handle)

    def kept(self) -> bool:
        """Whether what this process locked is still in its place; true where it has locked nothing."""
        if self._handle is None or self._handle not in _held:
            return True
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except OSError:
            return False

    def _take(self, handle: int) -> None:
        for _ in range(PATIENCE):
            free, owner = _locked(handle), _parse(_content(handle))
            if owner and alive(owner, free):
                where, advice = "", "wait for it or stop it"
                if _elsewhere(owner):
                    where, advice = f" on {owner['host']}", f"if it is gone, delete {self.path}"
                raise UserError(
                    f"{self.path.parent} is in use by process {owner['pid']}{where} since {owner['since']}; {advice}"
                )
            if free:
                return
            time.sleep(PAUSE)
        raise UserError(f"{self.path.parent} is in use by another process; wait for it or stop it")


def name() -> dict[str, Any]:
    """What tells this process from every other one."""
    process = psutil.Process()
    own = {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname(), "since": now()}
    return own | {"boot": boot(), "ticks": ticks(process.pid)}


def alive(owner: dict[str, Any], free: bool = False) -> bool:
    """Whether the named process runs. One on another machine cannot be asked and counts as running; neither can one under another
    name of this machine (a container), but where the file lock is `free` it is gone."""
    if _elsewhere(owner):
        return not (_near(owner) and free)
    if owner.get("boot") and boot() and owner["boot"] != boot():
        return False
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if owner.get("ticks") is not None and (began := ticks(owner["pid"])) is not None:
            return bool(owner["ticks"] == began)
        return abs(process.create_time() - owner["started"]) < 1.0
    except psutil.Error:
        return False


def boot() -> str:
    """An id of this start of the machine; '' where there is none."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did (field 22 of its ``stat``); None where that is not known."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


def _elsewhere(owner: dict[str, Any]) -> bool:
    return bool(owner["host"] != socket.gethostname())


def _near(owner: dict[str, Any]) -> bool:
    """Whether a process under another host's name runs on this machine (in a container)."""
    return bool(owner.get("boot")) and owner["boot"] == boot()


def _locked(handle: int, shared: bool = False) -> bool:
    """Lock the file; False when another process has. Where there are no file locks nobody can."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _content(handle: int) -> bytes:
    try:
        return os.pread(handle, 4096, 0)
    except OSError:
        return b""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _parse(content: bytes) -> dict[str, Any] | None:
    """The owner that a lock file names; None for one that is released, torn by a crash, or no such file at all."""
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(owner, dict):
        return None
    whole = type(owner.get("pid")) is int and owner["pid"] > 0 and type(owner.get("started")) in (int, float)
    return owner if whole and isinstance(owner.get("host"), str) and "since" in owner else None
