"""Worker processes for code that may hang, crash or print: every call has a hard time limit and cannot harm the run.

A limit inside the process cannot be trusted (a loop in C never looks at a Python signal, and threads cannot be killed), so
the parent kills the whole worker and starts another. This guards against accidents; it is no security sandbox: a
worker runs with the rights of the user.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from anypo.errors import UserError

START_LIMIT = 120.0
"""Seconds a worker has to start and prepare (import what it needs); not part of any call's own limit."""


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its value, or why there is none."""

    value: Any = None
    failed: str = ""


class Worker:
    """One child process and the connection to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        script = os.path.join(os.path.dirname(__file__), "worker.py")
        # A fixed hash seed makes generators that iterate over sets of strings give the same problems in every process.
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, script, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's business
            )
        self._finalizer = weakref.finalize(self, _kill, self.process, self.connection)
        self.connection.send(list(sys.path))

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...], limit: float) -> None:
        """Hand over one call; the reply is read with `receive`."""
        message = pickle.dumps((function, arguments, limit))
        with contextlib.suppress(OSError):  # a dead worker shows as EOF in `receive`
            self.connection.send_bytes(message)

    def receive(self) -> Outcome | None:
        """The reply, or None when the process died instead."""
        try:
            ok, value = self.connection.recv()
        except (EOFError, OSError):
            return None
        return Outcome(value=value) if ok else Outcome(failed=value)

    def death(self) -> str:
        """How the process ended (after `receive` gave None)."""
        code = self.process.wait()
        return f"the process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def close(self) -> None:
        """Kill the process, and any it started, and wait for it."""
        self._finalizer()


def _kill(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Pool:
    """Up to `workers` processes, started when first needed and replaced when they die.

    `prepare` (a module-level function and its arguments) runs once in every new worker, outside the time limits; a failure
    there is the user's to mend and raises `UserError`. Calls and results are pickled; functions must be importable.
    """

    def __init__(self, workers: int = 1, prepare: tuple[Callable[..., Any], tuple[Any, ...]] = (bool, ())) -> None:
        self.workers, self.prepare = workers, prepare
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], limit: float) -> list[Outcome]:
        """`function(*arguments)` for each of `calls`, at most `limit` seconds each; outcomes in the order of the calls."""
        outcomes: list[Outcome] = [Outcome(failed="not run")] * len(calls)
        waiting = deque(enumerate(calls))
        busy: dict[Connection, tuple[Worker, int, float]] = {}
        with self._lock:
            try:
                while waiting or busy:
                    while waiting and len(busy) < self.workers:
                        worker = self._idle.pop() if self._idle else self._start()
                        index, arguments = waiting.popleft()
                        worker.submit(function, arguments, limit)
                        busy[worker.connection] = (worker, index, time.monotonic() + limit)
                    soonest = min(deadline for _, _, deadline in busy.values())
                    ready = wait(list(busy), timeout=max(0.0, soonest - time.monotonic()))
                    for connection, (worker, index, deadline) in list(busy.items()):
                        if connection in ready:
                            outcome = worker.receive()
                            outcomes[index] = outcome or Outcome(failed=worker.death())
                        elif time.monotonic() >= deadline:
                            outcome = None
                            outcomes[index] = Outcome(failed=f"took longer than {limit:g} s")
                        else:
                            continue
                        del busy[connection]
                        if outcome is None:
                            worker.close()
                        else:
                            self._idle.append(worker)
            finally:
                for worker, _, _ in busy.values():  # interrupted: their replies must not reach the next run
                    worker.close()
        return outcomes

    def check(self) -> None:
        """Start a worker and prepare it, so that what cannot work is refused at once (`UserError`)."""
        with self._lock:
            if not self._idle:
                self._idle.append(self._start())

    def close(self) -> None:
        """Stop the idle workers; later calls start fresh ones."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _start(self) -> Worker:
        worker = Worker()
        function, arguments = self.prepare
        worker.submit(function, arguments, START_LIMIT)
        ready = worker.connection.poll(START_LIMIT)
        outcome = worker.receive() if ready else Outcome(failed=f"took longer than {START_LIMIT:g} s")
        failed = worker.death() if outcome is None else outcome.failed
        if failed:
            worker.close()
            raise UserError(f"the worker process of the task could not start: {failed}")
        return worker
