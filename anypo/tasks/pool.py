"""Worker processes for code that may hang, crash or print: every call has a hard time limit and cannot harm the run.

A limit inside the process cannot be trusted (a loop in C never looks at a Python signal, and threads cannot be killed), so
the parent kills the whole worker and starts another. Memory beyond `memory` and files beyond a gigabyte are refused by the
kernel, and whatever a worker started ends with it: children, and daemons that left its process group. This guards against accidents;
it is no security sandbox: a worker runs with the rights of the user.
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
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from anypo.errors import UserError

START_LIMIT = 120.0
"""Seconds a worker has to start and prepare (import what it needs); not part of any call's own limit."""

LONGEST = 64 * 2**20
"""Most bytes of a reply."""

MARK = "ANYPO_WORKER"
"""Environment variable by which the descendants of a worker are known when it died before them."""

LATE = "took longer than"

PATIENCE = 8
"""Calls in a row that ran out of time before that is said."""


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
        mark = uuid.uuid4().hex
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", MARK: mark}
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
        self._finalizer = weakref.finalize(self, _kill, self.process, self.connection, mark)
        self.connection.send(list(sys.path))

    def submit(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], limit: float, memory: float = 0.0
    ) -> None:
        """Hand over one call; the reply is read with `receive`. memory: gigabytes it may need, 0 for as many as there are."""
        message = pickle.dumps((function, arguments, limit, memory))
        with contextlib.suppress(OSError):  # a dead worker shows as EOF in `receive`
            self.connection.send_bytes(message)

    def receive(self) -> Outcome | None:
        """The reply, or None when the process died instead, or answered with more than `LONGEST` bytes."""
        try:
            ok, value = pickle.loads(self.connection.recv_bytes(LONGEST))
        except (EOFError, OSError):
            return None
        return Outcome(value=value) if ok else Outcome(failed=value)

    def death(self) -> str:
        """How the process ended (after `receive` gave None)."""
        try:
            code = self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return f"the answer was longer than {LONGEST} bytes"
        return f"the process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def close(self) -> None:
        """Kill the process, and any it started, and wait for it."""
        self._finalizer()


def _kill(process: subprocess.Popen[bytes], connection: Connection, mark: str) -> None:
    """End a worker and everything it started. It is stopped first, so that it forks nothing meanwhile."""
    connection.close()
    with contextlib.suppress(psutil.Error):
        worker = psutil.Process(process.pid)
        if process.poll() is None:
            worker.suspend()
        for _ in range(20):  # orphans below it are given to it (`worker.adopt`), so they are found here
            if not _killed(
                [child for child in worker.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
            ):
                break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _killed([left for left in psutil.process_iter() if _marked(left, mark)])


def _killed(processes: Sequence[psutil.Process]) -> int:
    """Kill them, all stopped before the first is; how many there were."""
    for act in ("suspend", "kill"):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                getattr(process, act)()
    return len(processes)


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


class Pool:
    """Up to `workers` processes, started when first needed and replaced when they die.

    `prepare` (a module-level function and its arguments) runs once in every new worker, outside the time limits; a failure
    there is the user's to mend and raises `UserError`. Calls and results are pickled; functions must be importable.
    memory: gigabytes that a worker may need beyond what it has after preparing; 0 for no limit.
    """

    def __init__(
        self,
        workers: int = 1,
        prepare: tuple[Callable[..., Any], tuple[Any, ...]] = (bool, ()),
        memory: float = 4.0,
    ) -> None:
        self.workers, self.prepare, self.memory = workers, prepare, memory
        self._late = 0  # calls in a row that ran out of time
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
                        worker.submit(function, arguments, limit, self.memory)
                        busy[worker.connection] = (worker, index, time.monotonic() + limit)
                    soonest = min(deadline for _, _, deadline in busy.values())
                    ready = wait(list(busy), timeout=max(0.0, soonest - time.monotonic()))
                    for connection, (worker, index, deadline) in list(busy.items()):
                        if connection in ready:
                            outcome = worker.receive()
                            outcomes[index] = outcome or Outcome(failed=worker.death())
                        elif time.monotonic() >= deadline:
                            outcome = None
                            outcomes[index] = Outcome(failed=f"{LATE} {limit:g} s")
                        else:
                            continue
                        del busy[connection]
                        self._count(outcomes[index], limit)
                        if outcome is None:
                            worker.close()
                        else:
                            self._idle.append(worker)
            finally:
                for worker, _, _ in busy.values():  # interrupted: their replies must not reach the next run
                    worker.close()
        return outcomes

    def _count(self, outcome: Outcome, limit: float) -> None:
        """Say once, for a series of calls that all run out of time, what that costs."""
        self._late = self._late + 1 if outcome.failed.startswith(LATE) else 0
        if self._late == PATIENCE:
            print(
                f"anypo: warning: {PATIENCE} verifications in a row took longer than {limit:g} s, and every one costs that long; mend "
                "the verifier, or lower --task-set timeout=SECONDS",
                file=sys.stderr,
            )

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
