"""The leaderboard: from cell records to rows with intervals, ranks, costs and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.compare import stats
from anypo.compare.stats import Interval


@dataclass(frozen=True)
class Row:
    """One contender. `score`: interquartile mean of final held-out accuracy over seeds. `beats_base`: probability that a run of
    it beats a run of the baseline. `reached`: share of seeds that reached the threshold, and the median tokens and seconds it took."""

    label: str
    seeds: int
    rank: int
    score: Interval
    beats_base: Interval
    reached: float
    tokens_to: float
    seconds_to: float
    means: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    runs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Board:
    """All rows, best first, with the threshold used and what a reader must know."""

    rows: tuple[Row, ...]
    base: str
    threshold: float
    notes: tuple[str, ...]


def leaderboard(records: Sequence[dict[str, Any]], base: str, threshold: float | None = None) -> Board:
    """Rank contenders by the interquartile mean of final accuracy.

    base: label of the baseline. threshold: accuracy whose time and tokens are reported (default: half-way between the common
    start and the best mean final accuracy).
    """
    labels = list(dict.fromkeys(record["label"] for record in records))
    grouped = {label: [r for r in records if r["label"] == label] for label in labels}
    finals = {label: [r["final"]["accuracy"] for r in grouped[label]] for label in labels}
    if threshold is None:
        start = float(np.mean([r["curve"][0]["accuracy"] for r in records]))
        threshold = start + 0.5 * (max(float(np.mean(v)) for v in finals.values()) - start)
    intervals = [stats.bootstrap(np.array(finals[label])) for label in labels]
    places = stats.ranks(intervals)
    rows = []
    for label, interval, place in zip(labels, intervals, places):
        times = [reach(r["curve"], threshold) for r in grouped[label]]
        hit = [t for t in times if t is not None]
        rows.append(
            Row(
                label=label,
                seeds=len(grouped[label]),
                rank=place,
                score=interval,
                beats_base=stats.probability_of_improvement(finals[label], finals[base]),
                reached=len(hit) / len(times),
                tokens_to=float(np.median([t["tokens"] for t in hit])) if hit else math.nan,
                seconds_to=float(np.median([t["seconds"] for t in hit])) if hit else math.nan,
                means={
                    k: float(np.nanmean([r["final"][k] for r in grouped[label]])) for k in grouped[label][0]["final"]
                },
                spent={k: float(np.mean([r["spent"][k] for r in grouped[label]])) for k in grouped[label][0]["spent"]},
                runs=tuple(finals[label]),
            )
        )
    rows.sort(key=lambda row: -row.score.value)
    return Board(tuple(rows), base, threshold, tuple(_notes(rows, finals, base)))


def reach(curve: Sequence[dict[str, float]], threshold: float) -> dict[str, float] | None:
    """Cost at which the accuracy first reached the threshold, linearly interpolated between evaluations; None if never."""
    before = curve[0]
    for point in curve:
        if point["accuracy"] >= threshold:
            gap = point["accuracy"] - before["accuracy"]
            share = (threshold - before["accuracy"]) / gap if gap > 0 else 0.0
            share = min(1.0, max(0.0, share))
            return {k: before[k] + share * (point[k] - before[k]) for k in ("tokens", "trained", "seconds", "updates")}
        before = point
    return None


def _notes(rows: Sequence[Row], finals: dict[str, list[float]], base: str) -> list[str]:
    notes = []
    seeds = min(row.seeds for row in rows)
    if seeds < 3:
        notes.append(f"{seeds} seed(s) a method: intervals say little; use at least 5.")
    best = rows[0]
    if best.label != base:
        needed = stats.seeds_needed(finals[best.label], finals[base])
        if needed is not None and needed > best.seeds:
            notes.append(
                f"the difference between {best.label} and {base} would need about {needed} seeds a side to be seen with 80 % "
                f"power; there are {best.seeds}."
            )
    ties = [row.label for row in rows if row.rank == 1]
    if len(ties) > 1:
        notes.append(f"rank 1 is shared by {len(ties)} methods whose intervals overlap: {', '.join(ties)}.")
    return notes
