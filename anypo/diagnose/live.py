"""Warnings while a run trains: the cheap detectors, every few steps, each warning said once.

Reads metrics and rollouts that the step has already made; touches no random state and no weights, so a watched run is bit for
bit the unwatched one. What was said is kept in ``warnings.jsonl`` of the run folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anypo.algorithm import Algorithm
from anypo.data.records import Group
from anypo.diagnose import DETECTORS, Evidence, Finding, examine
from anypo.diagnose.evidence import Row, rows
from anypo.files import append_line, encode, read_lines, write_lines
from anypo.run.disk import shape
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.names import WARNINGS

STEPS, FIRST, LOOKS = 10, 10, 12
"""Steps between two looks, steps before the first one (trends need a few), and looks whose rollouts are remembered."""

HISTORY = 2000
"""Steps of metrics that are remembered."""


class Watch:
    """The live diagnosis of one run, or of one stage of it. `step` is called after every training step."""

    def __init__(
        self,
        path: Path,
        algorithm: Algorithm,
        config: Mapping[str, Any],
        task: Mapping[str, Any],
        total: int,
        stage: int = 0,
    ) -> None:
        self.path, self.algorithm, self.config, self.task, self.stage = path, algorithm, config, task, stage
        self.every = max(STEPS, total // 20)
        self.metrics: deque[Mapping[str, Any]] = deque(maxlen=HISTORY)
        self.rollouts: deque[list[Row]] = deque(maxlen=LOOKS)
        self.said: dict[str, str] = {}
        self.detectors = {name: entry for name, entry in DETECTORS.items() if entry.live}

    def resume(self, step: int, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Go on after `step`, whose `metrics` so far are given; what was said after it is forgotten."""
        self.metrics.extend(metrics)
        kept = [entry for entry in warnings(self.path) if entry["step"] <= step]
        if (self.path / WARNINGS).exists():
            write_lines(self.path / WARNINGS, kept)
        self.said = {entry["pathology"]: entry["severity"] for entry in kept}

    def step(self, metrics: Mapping[str, Any], groups: Sequence[Group]) -> list[Finding]:
        """The findings that are new (or have become severe) at this step; they are stored."""
        self.metrics.append(dict(metrics))
        number = int(metrics["step"])
        if number % self.every:
            return []
        self.rollouts.append(rows(number, groups))
        if number < FIRST:
            return []
        evaluations = RunFolder(self.path).evaluations()
        evidence = Evidence(
            list(self.metrics),
            list(self.rollouts),
            evaluations,
            self.algorithm,
            self.config,
            self.task,
            None,
            str(self.path),
            self.stage,
        )
        new = [found for found in examine(evidence, self.detectors) if self._new(found)]
        for found in new:
            self.said[found.detector.name] = found.severity
            append_line(self.path / WARNINGS, encode({"step": number, **found.plain()}))
        return new

    def _new(self, found: Finding) -> bool:
        before = self.said.get(found.detector.name)
        return (found.severity == "severe" and before != "severe") or (found.severity == "warning" and before is None)


def line(found: Finding) -> str:
    """A finding as the line that is printed while training."""
    lever = next((command for _, command in found.levers if command.startswith("anypo train")), "")
    change = lever[lever.rindex("--set") :] if "--set" in lever else ""
    return f"{found.severity}: {found.detector.title}: {found.evidence}" + (f"; try {change}" if change else "")


def warnings(path: Path | str) -> list[dict[str, Any]]:
    """Every warning of the run folder at `path`, in order: step, pathology, severity, evidence, levers."""
    file = Path(path) / WARNINGS
    found = read_lines(file)
    shape.check_lines(file, shape.Step, found, "a warning")
    return found
