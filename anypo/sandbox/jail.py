"""One program in one jail: no network, nothing of the machine but Python's own files to read, nothing but a small scratch folder to
write, and limits of time, memory, processes and output.

The walls are Linux namespaces, put up by bubblewrap (`bwrap`): the program sees neither the files nor the processes nor the network
of the machine, and everything it starts ends with it. Limits of one process are the kernel's (`inside.py` sets them); those of all
processes together are watched from outside. Where there is no `bwrap`, or it may not put up walls, nothing is run (`refusal`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil

from anypo.errors import UserError
from anypo.sandbox import calls

LOOK = 0.05
"""Seconds between two looks at what the processes of a program use."""

START = 30.0
"""Seconds that Python may take to start."""

LONGEST = 2**20
"""Bytes of a report; a program without tests can write there, too."""

REPORT = 2
"""The place of the report among what is read of a program, after its two streams."""

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
"""What Python needs of the machine to start, where it is."""


@dataclass(frozen=True)
class Ran:
    """What a program did. code: its exit code, None where it was ended; why: the limit that ended it, '' where it ended by itself;
    report: what `inside.py` says of the run (see there)."""

    stdout: str = ""
    stderr: str = ""
    code: int | None = None
    why: str = ""
    report: Mapping[str, Any] | None = None

    @property
    def error(self) -> str:
        """The last line of what went wrong, '' where nothing did."""
        lines = self.stderr.strip().splitlines()
        return self.why or (lines[-1] if lines and self.code else f"exit code {self.code}" if self.code else "")


@dataclass(frozen=True)
class Jail:
    """The limits of one program. seconds: of wall-clock time; memory: megabytes of all its processes and files together;
    processes: alive at once; output: kilobytes that are read of each of its streams, beyond which it is ended."""

    seconds: float = 5.0
    memory: int = 512
    processes: int = 16
    output: int = 64

    def run(self, program: str, stdin: str = "", tests: str = "", traced: bool = False) -> Ran:
        """Run a Python program (with the standard library only) as a file of its own.

        tests: statements that are run after it in its names. traced: report what its variables hold in the end. Raises
        `UserError` where no walls can be put up.
        """
        if reason := refusal():
            raise UserError(reason)
        job = {
            "program": program,
            "tested": bool(tests),
            "traced": traced,
            "seconds": self.seconds,
            "memory": self.memory,
        }
        job["processes"] = self.processes + bool(tests)  # the tests are one
        with (
            _pipe(json.dumps(job).encode(errors="replace")) as told,
            _pipe(tests.encode(errors="replace")) as asked,
            _pipe(calls.program()) as denied,
            _pipe(b"") as said,
        ):
            walls = _walls(self.memory, denied.read)
            command = [*walls, _python(), "-I", "-S", "/inside.py", str(told.read), str(asked.read), str(said.write)]
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(told.read, asked.read, denied.read, said.write),
                env={},
                start_new_session=True,
            ) as process:
                told.close_read()
                asked.close_read()
                said.close_write()
                try:
                    streams, why = self._watch(process, stdin.encode(errors="replace"), said.read)
                finally:
                    _end(process)
        text = [stream.decode(errors="replace") for stream in streams]
        return Ran(text[0], text[1], None if why else process.returncode, why, _report(text[2]))

    def _watch(self, process: subprocess.Popen[bytes], stdin: bytes, said: int) -> tuple[list[bytearray], str]:
        """Feed and read a program until it ends or breaks a limit: its two streams, its report, and the limit that it broke."""
        assert process.stdin and process.stdout and process.stderr
        found = [bytearray(), bytearray(), bytearray()]
        deadline, looked = time.monotonic() + START, time.monotonic()
        with selectors.DefaultSelector() as ready:
            for place, stream in enumerate((process.stdout.fileno(), process.stderr.fileno(), said)):
                os.set_blocking(stream, False)
                ready.register(stream, selectors.EVENT_READ, place)
            feeding = _Feed(process.stdin, stdin)
            feeding.register(ready)
            while len(ready.get_map()):
                for key, _ in ready.select(min(LOOK, max(0.0, deadline - time.monotonic()))):
                    if key.data is feeding:
                        feeding.more(ready)
                    elif not (piece := os.read(key.fd, 65536)):
                        ready.unregister(key.fd)
                    else:
                        if (
                            key.data == REPORT and not found[REPORT]
                        ):  # the first word of `inside.py`: the program begins
                            deadline = time.monotonic() + self.seconds
                        found[key.data] += piece
                        most = LONGEST if key.data == REPORT else self.output * 1024
                        if len(found[key.data]) > most:
                            del found[key.data][most:]
                            return found, f"it wrote more than {most // 1024} KB"
                now = time.monotonic()
                if now > deadline:
                    return found, f"it took longer than {self.seconds:g} s"
                if now - looked > LOOK:
                    looked = now
                    if why := self._broken(process.pid):
                        return found, why
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        return found, "" if process.poll() is not None else f"it took longer than {self.seconds:g} s"

    def _broken(self, pid: int) -> str:
        """The limit that all processes of a program together have broken, '' for none."""
        with contextlib.suppress(psutil.Error):
            alive = psutil.Process(pid).children(recursive=True)
            if len(alive) > self.processes + 3:  # the walls are two of them, the tests a third
                return f"it had more than {self.processes} processes"
            used = 0
            for one in alive:
                with contextlib.suppress(psutil.Error):
                    used += one.memory_info().rss
            if used > self.memory * 2**20:
                return f"it used more than {self.memory} MB"
        return ""


class _Feed:
    """What is left to write to a program's input."""

    def __init__(self, stream: IO[bytes], text: bytes) -> None:
        self.stream, self.left = stream, memoryview(text)

    def register(self, ready: selectors.BaseSelector) -> None:
        os.set_blocking(self.stream.fileno(), False)
        if self.left:
            ready.register(self.stream, selectors.EVENT_WRITE, self)
        else:
            self._close()

    def more(self, ready: selectors.BaseSelector) -> None:
        try:
            self.left = self.left[os.write(self.stream.fileno(), self.left[:65536]) :]
        except BrokenPipeError:
            self.left = self.left[:0]
        if not self.left:
            ready.unregister(self.stream)
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()


class _Pipe:
    """A pipe whose ends are closed once."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}

    def close_read(self) -> None:
        self._close(self.read)

    def close_write(self) -> None:
        self._close(self.write)

    def close(self) -> None:
        for end in tuple(self._open):
            self._close(end)

    def _close(self, end: int) -> None:
        if end in self._open:
            self._open.discard(end)
            os.close(end)


@contextlib.contextmanager
def _pipe(text: bytes) -> Iterator[_Pipe]:
    """A pipe, or a file in memory that holds `text` where there is one to hand over (of any length: a pipe is finite)."""
    pipe = _Pipe()
    try:
        if text:
            held = os.memfd_create("job")
            os.write(held, text)
            os.lseek(held, 0, os.SEEK_SET)
            os.dup2(held, pipe.read)
            os.close(held)
        yield pipe
    finally:
        pipe.close()


def _walls(memory: int, denied: int) -> list[str]:
    """The command that puts up the walls; denied: the file of the calls that are not to be made. Root needs no user namespace for
    it, and without one `inside.py` can become a user of its own, whose processes the kernel counts."""
    out = ["bwrap", "--die-with-parent", "--new-session", "--hostname", "jail", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        out += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        out += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        out += ["--unshare-all"]
    for place in SYSTEM:
        out += ["--ro-bind-try", place, place]
    out += [
        "--ro-bind",
        sys.base_prefix,
        "/python",
        "--ro-bind",
        str(Path(__file__).with_name("inside.py")),
        "/inside.py",
    ]
    out += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(min(64, memory) * 2**20),
        "--perms",
        "1777",
        "--tmpfs",
        "/tmp",
    ]
    out += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in {
        "HOME": "/tmp",
        "PATH": "/python/bin:/usr/bin:/bin",
        "PYTHONHASHSEED": "0",
        "LANG": "C.UTF-8",
    }.items():
        out += ["--setenv", name, value]
    return [*out, "--seccomp", str(denied), "--"]


def _python() -> str:
    return f"/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the walls, and with them everything within."""
    if process.poll() is None:
        process.kill()


def _report(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@cache
def refusal() -> str:
    """Why no program can be run here; '' where one can."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return (
            "programs that a model wrote run only inside bubblewrap, which is not here; install it (apt install bubblewrap, or "
            "dnf install bubblewrap), or choose another task"
        )
    if not calls.program():
        return (
            f"no program that a model wrote is run on a machine of the kind {platform.machine()}; choose another task"
        )
    with _pipe(calls.program()) as denied:
        command = [*_walls(64, denied.read), _python(), "-I", "-S", "-c", "print(1)"]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=30, env={}, pass_fds=(denied.read,))
    if tried.stdout.strip() == "1":
        return ""
    return (
        f"bubblewrap may not put up walls here ({tried.stderr.strip()[:200]}), so no program that a model wrote is run"
    )


__all__ = ["Jail", "Ran", "refusal"]
