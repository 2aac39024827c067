"""The child process of `anypo.tasks.pool`: runs one function call after another, each under a kernel alarm.

Started as a plain script, so that neither the caller's `__main__` nor a forked copy of its threads comes along. It reads
(function, arguments, limit) pickles from the connection whose file descriptor is its argument and answers (ok, value or
reason). Everything written to stdout is discarded: some generators and verifiers print.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection

ORPHAN_GRACE = 5.0
"""Seconds after the limit at which the kernel ends the process by itself, should nobody be left to kill it."""


def main(descriptor: int) -> None:
    """Serve calls until the other end closes."""
    connection = Connection(descriptor)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, lose the verifier and not the run
    sys.path[:] = connection.recv()
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(answer(message))


def answer(message: bytes) -> bytes:
    """The pickled reply to one pickled call."""
    try:
        function, arguments, limit = pickle.loads(message)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit + ORPHAN_GRACE)
        reply = pickle.dumps((True, function(*arguments)))
    except BaseException as error:  # a verifier may call sys.exit
        reply = pickle.dumps((False, reason(error)))
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return reply


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
