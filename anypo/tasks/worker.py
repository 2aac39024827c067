"""The child process of `anypo.tasks.pool`: runs one function call after another, each under a kernel alarm.

Started as a plain script, so that neither the caller's `__main__` nor a forked copy of its threads comes along. It reads
(function, arguments, limit, memory) pickles from the connection whose file descriptor is its argument and answers (ok, value or
reason). Everything written to stdout is discarded: some generators and verifiers print.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection

ORPHAN_GRACE = 5.0
"""Seconds after the limit at which the kernel ends the process by itself, should nobody be left to kill it."""

LARGEST = 2**30
"""Most bytes of a file that a call may write."""

MOST = 64
"""Processes that calls may leave behind for the calls after them (a prover that stays open); more are killed."""

_bounded = False


def main(descriptor: int) -> None:
    """Serve calls until the other end closes."""
    connection = Connection(descriptor)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, lose the verifier and not the run
    adopt()
    sys.path[:] = connection.recv()
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            tidy(most=0)
            return
        reply = answer(message)
        tidy(MOST)
        connection.send_bytes(reply)


def answer(message: bytes) -> bytes:
    """The pickled reply to one pickled call."""
    try:
        function, arguments, limit, memory = pickle.loads(message)
        if memory:
            bound(memory)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit + ORPHAN_GRACE)
        reply = pickle.dumps((True, function(*arguments)))
    except MemoryError:
        reply = pickle.dumps((False, "needed more memory than it may have (--task-set memory=GIGABYTES)"))
    except BaseException as error:  # a verifier may call sys.exit
        reply = pickle.dumps((False, reason(error)))
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return reply


def bound(memory: float) -> None:
    """Let this process need `memory` gigabytes beyond what it has now, and write no core and no enormous file."""
    global _bounded
    if _bounded:
        return
    _bounded = True
    with contextlib.suppress(ImportError, OSError, ValueError):  # what a system has not, it has not
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        wanted = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": LARGEST, "RLIMIT_AS": now + int(memory * 1e9)}
        for name, most in wanted.items():
            _, hard = resource.getrlimit(getattr(resource, name))
            resource.setrlimit(getattr(resource, name), (most if hard < 0 else min(most, hard), hard))


def adopt() -> None:
    """Become the parent of whatever is orphaned below this process, so that it can be found (Linux)."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def tidy(most: int) -> None:
    """Kill the processes below this one when there are more than `most`."""
    children = [int(pid) for file in glob.glob("/proc/self/task/*/children") for pid in _text(file).split()]
    if len(children) <= most:
        return
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
    for pid in children:
        with contextlib.suppress(OSError):
            os.waitpid(pid, 0)
    tidy(0)  # what was below them is now below this


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path) as file:
        return file.read()
    return ""


def reason(error: BaseException) -> str:
    """An exception as one short line, with the place in the user's code where there is one."""
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__) + place(error)


def place(error: BaseException) -> str:
    """` (file, line N)`: the innermost line that raised outside of this library and of installed packages; '' without one."""
    here, found = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if (
            os.path.isfile(file)
            and not file.startswith((here + os.sep, STANDARD + os.sep))
            and "site-packages" not in file
        ):
            found = f" ({os.path.abspath(file)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


STANDARD = os.path.dirname(os.path.abspath(contextlib.__file__))
"""Where the standard library is."""


if __name__ == "__main__":
    # As a script this file's folder is first on the path, where `base` and `worker` would shadow other modules.
    sys.path.pop(0)
    main(int(sys.argv[1]))
