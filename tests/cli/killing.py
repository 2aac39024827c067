"""Runs that are killed: started as processes of their own, ended without warning, and what they measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIMED = ("time", "memory/", "rollout/tokens_per_second")
"""Metrics that depend on the hour and the machine."""


def killed_run(folder: Path, words: tuple[str, ...], steps: int) -> None:
    """Start `anypo *words --out folder` and kill it once it has recorded `steps` steps, which must be before its end."""
    command = [sys.executable, "-m", "anypo", *words, "--out", str(folder)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        assert process.poll() is None, "the run must be killed before it ends"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def results(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics and evaluations of a run, without what depends on the hour."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows]
    scores = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return metrics, [{key: value for key, value in score.items() if not key.startswith("time")} for score in scores]
