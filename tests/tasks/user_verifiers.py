"""Verifiers as a user would write them, good and bad; imported by name in worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

NOT_CALLABLE = 3


def ends_with(prediction: str, answer: str, metadata: dict[str, Any]) -> bool:
    return prediction.endswith(answer)


def from_column(prediction: str, answer: str, metadata: dict[str, Any]) -> float:
    return float(prediction == metadata["expected"])


def leave(pids: str) -> None:
    """Start a process that leaves the process group and survives its parent, and note its number in the file `pids`."""
    script = f"import os, time; os.fork() and os._exit(0); os.setsid(); open({pids!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    subprocess.run([sys.executable, "-S", "-c", script], check=True)
    while not os.path.exists(pids):
        time.sleep(0.01)


def moody(prediction: str, answer: str, metadata: dict[str, Any]) -> Any:
    """Does what the prediction says."""
    if prediction == "raise":
        raise RuntimeError("no\nmood")
    if prediction == "sleep":
        time.sleep(60)
    if prediction == "c loop":
        return 9**9**9  # one C call; no Python signal handler runs before it ends
    if prediction == "die":
        os.abort()
    if prediction == "exit":
        sys.exit(1)
    if prediction == "nan":
        return float("nan")
    if prediction == "text":
        return "right"
    if prediction == "memory":
        return float(len(bytearray(6 * 10**9)))
    if prediction == "file":
        with tempfile.TemporaryFile() as file:
            file.truncate(2 * 2**30)
    if prediction == "daemon":
        leave(metadata["pids"])
    if prediction == "die after daemon":
        leave(metadata["pids"])
        os.abort()
    if prediction == "noise":
        print("x" * 100_000)
        os.write(1, b"y" * 100_000)
        os.write(2, b"z" * 100_000)
    return 1.0
