"""A worker does one unit of work each time its parent says "go" and answers with one JSON line. Standard library only: it runs
inside the peers' environments too."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

_out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever libraries print goes to stderr


def say(**message: Any) -> None:
    """One JSON line to the parent."""
    _out.write(json.dumps(message) + "\n")
    _out.flush()


def wait() -> str:
    """Block until the parent says something ("go", or "warm" for an unrecorded turn); leave when it is gone or says stop."""
    line = sys.stdin.readline()
    if not line or line.strip() == "stop":
        os._exit(0)
    return line.strip()


def peak_gb() -> float:
    """Peak resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def serve(unit: Callable[[], dict[str, Any]], warm: Callable[[], dict[str, Any]] | None = None) -> None:
    """Answer every "go" with the time and memory of one call of `unit`; a "warm" calls `warm`, a smaller unit, if there is one."""
    say(ready=True)
    while True:
        work = (warm if wait() == "warm" else None) or unit
        began = time.perf_counter()
        result = work()
        say(seconds=time.perf_counter() - began, peak_gb=peak_gb(), **result)
