"""The leaderboard: from cell records to rows with intervals, ranks, costs and what a reader must know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.budget import MEASURES, Budget
from anypo.compare import stats
from anypo.compare.effects import Effect, effects
from anypo.compare.notes import notes
from anypo.compare.stats import Interval
from anypo.errors import UserError, unknown
from anypo.scoring.units import ACCURACY

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One contender.

    rank: best and worst place its interval allows. score: interquartile mean over runs of the held-out score at the end of the
    budget (accuracy: pass@1). beats_base: probability that a run of it beats a run of the baseline. reached: share of runs that
    reached the threshold; tokens_to, seconds_to: median of what those spent until then (nan when none did). means: mean of
    every final measure; spent: mean of every budget measure, and `wall`, seconds with loading and evaluation. runs: final
    score of every run.
    """

    label: str
    runs: tuple[float, ...]
    rank: tuple[int, int]
    score: Interval
    beats_base: Interval
    reached: float
    tokens_to: float
    seconds_to: float
    means: Mapping[str, float]
    spent: Mapping[str, float]


@dataclass(frozen=True)
class Board:
    """All rows, best first. `start`: mean score before training. `thresholds`: by task, the score whose cost is given. `unit`: of
    every score.
    `effects`: main effects and interactions of a factorial design. `notes`: sentences a reader must know."""

    rows: tuple[Row, ...]
    base: str
    budget: Budget
    k: int
    start: float
    thresholds: Mapping[str, float]
    effects: tuple[Effect, ...] = ()
    notes: tuple[str, ...] = field(default=())
    unit: str = ACCURACY

    @property
    def tied(self) -> list[str]:
        """Labels that may be the best."""
        return [row.label for row in self.rows if row.rank[0] == 1]


def leaderboard(
    records: Records,
    base: str,
    budget: Budget,
    threshold: float | None = None,
    failures: Mapping[str, str] | None = None,
) -> Board:
    """Rank contenders by the interquartile mean of final scores over their runs on all tasks.

    base: label of the baseline. threshold: score whose time and tokens are given (default: on each task half-way from the
    common start to the best contender). `UserError` for an unknown base, and for tasks scored in different units.
    """
    unit = common_unit(records)
    labels = list(dict.fromkeys(record["label"] for record in records))
    if base not in labels:
        raise unknown("method for --base", base, labels)
    tasks = list(dict.fromkeys(record["task"] for record in records))
    strata = {label: [_finals(records, label, task) for task in tasks] for label in labels}
    scores = {label: stats.bootstrap([s for s in strata[label] if len(s)]) for label in labels}
    places = dict(zip(labels, stats.ranks([scores[label] for label in labels])))
    thresholds = {task: _threshold(records, labels, task) if threshold is None else threshold for task in tasks}
    rows = []
    for label in labels:
        own = [record for record in records if record["label"] == label]
        hits = [hit for r in own if (hit := reach(r["curve"], thresholds[r["task"]], unit)) is not None]
        both = [i for i in range(len(tasks)) if len(strata[label][i]) and len(strata[base][i])]
        rows.append(
            Row(
                label=label,
                runs=tuple(float(r["final"][unit]) for r in own),
                rank=places[label],
                score=scores[label],
                beats_base=stats.probability_of_improvement(
                    [strata[label][i] for i in both], [strata[base][i] for i in both]
                )
                if both
                else Interval(math.nan, math.nan, math.nan),
                reached=len(hits) / len(own),
                tokens_to=_median([hit["tokens"] for hit in hits]),
                seconds_to=_median([hit["seconds"] for hit in hits]),
                means={name: _mean([r["final"].get(name, math.nan) for r in own]) for name in own[0]["final"]},
                spent={name: _mean([r["spent"][name] for r in own]) for name in measures(records)}
                | {"wall": _mean([r.get("wall", math.nan) for r in own])},
            )
        )
    rows.sort(key=lambda row: (-row.score.value, row.label))
    varied = [dict(r["factors"]) for r in records]
    complete = bool(varied) and all(varied)
    found = effects([r["final"][unit] for r in records], varied) if complete else []
    board = Board(
        rows=tuple(rows),
        base=base,
        budget=budget,
        k=int(records[0].get("k", 1)),
        start=_mean([r["curve"][0][unit] for r in records]),
        unit=unit,
        thresholds=thresholds,
        effects=tuple(found),
    )
    return Board(**{**vars(board), "notes": tuple(notes(board, records, strata, failures or {}))})


def measures(records: Records) -> list[str]:
    """What all records counted (those of older versions count no rollouts)."""
    return [name for name in MEASURES if all(name in record["spent"] for record in records)]


def unit_of(record: Mapping[str, Any]) -> str:
    """The unit in which a cell was scored (records of older versions knew accuracy only)."""
    return str(record.get("unit", ACCURACY))


def common_unit(records: Records) -> str:
    """The unit of all records. `UserError` when there are several: their mean would mean nothing."""
    tasks = {unit_of(record): record["task"] for record in records}
    if len(tasks) > 1:
        said = ", ".join(f"{task} by its {unit}" for unit, task in tasks.items())
        raise UserError(f"the tasks are scored in different units ({said}); compare them one at a time")
    return next(iter(tasks), ACCURACY)


def reach(curve: Sequence[Mapping[str, float]], threshold: float, unit: str = ACCURACY) -> dict[str, float] | None:
    """What had been spent when the score first reached the threshold, linearly interpolated between evaluations; None if
    it never did."""
    before = curve[0]
    for point in curve:
        if point[unit] >= threshold:
            gap = point[unit] - before[unit]
            share = (threshold - before[unit]) / gap if gap > 0 else 0.0
            return {name: before[name] + share * (point[name] - before[name]) for name in MEASURES if name in point}
        before = point
    return None


def _threshold(records: Records, labels: Sequence[str], task: str) -> float:
    """Half-way from the common start to the best contender; nan when none got above the start."""
    start = _mean([r["curve"][0][unit_of(r)] for r in records if r["task"] == task])
    finals = [_finals(records, label, task) for label in labels]
    best = max(float(stats.interquartile_mean(values)) for values in finals if len(values))
    return start + 0.5 * (best - start) if best > start else math.nan


def _finals(records: Records, label: str, task: str) -> list[float]:
    return [float(r["final"][unit_of(r)]) for r in records if (r["label"], r["task"]) == (label, task)]


def _mean(values: Sequence[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but nan is a mean of nan
        return float(np.nanmean(values)) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan
