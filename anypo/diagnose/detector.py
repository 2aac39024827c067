"""Detectors: one pathology each, as a pure function from evidence to one number with two thresholds.

A detector returns what it `Measured`: a score (higher is worse), the sentence that says what was seen, and rollouts that show
it. The score is graded by the detector's `Limit`, so that thresholds are data: documented, tested and calibrated in one place.
Data that is absent gives `Missing`, which is reported as "not measured", never as healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anypo.diagnose.evidence import Evidence, Row
from anypo.diagnose.levers import Lever, commands

Severity = Literal["severe", "warning", "healthy", "not measured"]
ORDER: tuple[Severity, ...] = ("severe", "warning", "healthy", "not measured")


@dataclass(frozen=True)
class Limit:
    """Scores from `warning` on are a warning, from `severe` on severe."""

    warning: float
    severe: float

    def grade(self, score: float) -> Severity:
        return "severe" if score >= self.severe else "warning" if score >= self.warning else "healthy"


@dataclass(frozen=True)
class Measured:
    """`excuse`: why a high score is no pathology here (empty when nothing excuses it)."""

    score: float
    says: str
    rollouts: Sequence[Row] = ()
    excuse: str = ""


@dataclass(frozen=True)
class Missing:
    """Why a detector could not measure."""

    reason: str


@dataclass(frozen=True)
class Detector:
    """name, title, room of the loop; `observable` is what the score is, `why` the reason for the thresholds; `curves` are the
    metrics that show it; `live`: cheap enough to look every few steps of a running run; `text`: only answers in words can show it."""

    name: str
    title: str
    room: str
    observable: str
    limit: Limit
    why: str
    levers: tuple[Lever, ...]
    look: Callable[[Evidence], Measured | Missing]
    curves: tuple[str, ...] = ()
    live: bool = False
    text: bool = False


@dataclass(frozen=True)
class Finding:
    """What one detector says about one run."""

    detector: Detector
    severity: Severity
    score: float | None
    evidence: str
    rollouts: tuple[dict[str, Any], ...] = ()
    levers: tuple[tuple[str, str], ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "pathology": self.detector.name,
            "title": self.detector.title,
            "room": self.detector.room,
            "severity": self.severity,
            "score": self.score,
            "observable": self.detector.observable,
            "thresholds": {"warning": self.detector.limit.warning, "severe": self.detector.limit.severe},
            "why": self.detector.why,
            "evidence": self.evidence,
            "rollouts": list(self.rollouts),
            "levers": [{"why": why, "command": command} for why, command in self.levers],
        }


DETECTORS: dict[str, Detector] = {}


def detector(
    name: str,
    title: str,
    *,
    room: str,
    observable: str,
    limit: tuple[float, float],
    why: str,
    levers: Sequence[Lever],
    curves: Sequence[str] = (),
    live: bool = False,
    text: bool = False,
) -> Callable[[Callable[[Evidence], Measured | Missing]], Callable[[Evidence], Measured | Missing]]:
    """Register the decorated function as a detector (see `Detector`)."""

    def register(look: Callable[[Evidence], Measured | Missing]) -> Callable[[Evidence], Measured | Missing]:
        if name in DETECTORS:
            raise ValueError(f"two detectors are named '{name}'")
        DETECTORS[name] = Detector(
            name, title, room, observable, Limit(*limit), why, tuple(levers), look, tuple(curves), live, text
        )
        return look

    return register


def examine(run: Evidence, chosen: Mapping[str, Detector] | None = None) -> list[Finding]:
    """Every detector's finding, the worst first (in the order of registration among equals)."""
    found = [finding(entry, run) for entry in (DETECTORS if chosen is None else chosen).values()]
    return sorted(found, key=lambda one: ORDER.index(one.severity))


def finding(entry: Detector, run: Evidence) -> Finding:
    """What `entry` says about `run`. A score that is not finite counts as not measured."""
    seen = Missing("the run acts in an environment, not in words") if entry.text and run.acts else entry.look(run)
    if isinstance(seen, Missing) or not np.isfinite(seen.score):
        reason = seen.reason if isinstance(seen, Missing) else "the score is not a finite number"
        return Finding(entry, "not measured", None, reason)
    severity = entry.limit.grade(seen.score)
    if seen.excuse and severity != "healthy":
        return Finding(entry, "healthy", float(seen.score), f"{seen.says}; no pathology: {seen.excuse}")
    if severity == "healthy":
        return Finding(entry, "healthy", float(seen.score), seen.says)
    shown = tuple(_reference(row) for row in seen.rollouts[:3])
    return Finding(entry, severity, float(seen.score), seen.says, shown, commands(entry.levers, run))


def _reference(row: Row) -> dict[str, Any]:
    """Where a rollout is, and enough of it to recognise it."""
    text = str(row["text"] or "")
    keys = ("step", "group_id", "sample", "reward", "length", "finish", "failed")
    return {key: row[key] for key in keys} | {"text": text if len(text) <= 160 else f"{text[:120]} … {text[-30:]}"}
