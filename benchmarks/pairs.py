"""Interleaved measurement: workers are started side by side and take turns, so drift of the machine hits all alike."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START, TURN = 300.0, 900.0
"""Seconds a worker may take to start, and to do one unit of work; a silent one is given up."""


@dataclass
class Side:
    """One competitor: the interpreter and script that run it, and what it reported. root: another checkout, whose script and
    library it is, empty for this one."""

    name: str
    python: Path
    script: str
    spec: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    root: Path | None = None
    process: subprocess.Popen[str] | None = None

    def start(self, log: Path) -> None:
        if not self.python.exists():
            self.failure = "not installed"
            return
        root = self.root or HERE.parent
        self.process = subprocess.Popen(
            [str(self.python), str(root / "benchmarks" / "workers" / self.script), json.dumps(self.spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        if self._read(START) is None:
            self.failure = f"did not start; see {log.name}"

    def turn(self, record: bool) -> None:
        """One unit of work, or a warm-up that leaves no record."""
        if self.failure or self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write("go\n" if record else "warm\n")
            self.process.stdin.flush()
            answer = self._read(TURN)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.failure = "stopped before answering"
        elif record:
            self.results.append(answer)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _read(self, patience: float) -> dict[str, Any] | None:
        assert self.process is not None and self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            self.process.kill()
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line.strip() else None


def interleave(sides: list[Side], rounds: int, logs: Path) -> None:
    """One warm-up and `rounds` recorded turns of every side, in turn."""
    logs.mkdir(parents=True, exist_ok=True)
    try:
        for side in sides:
            side.start(logs / f"{side.name.replace(' ', '-').replace('/', '-')}.log")
        for number in range(1 + rounds):
            for side in sides:
                side.turn(record=number > 0)
    finally:
        for side in sides:
            side.close()


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Turn-by-turn ratios theirs / ours (above 1: ours is faster)."""
    return spread([b / a for a, b in zip(ours, theirs)])
