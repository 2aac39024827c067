"""What the page draws, as plain data: rows, learning curves on a common grid, Pareto fronts, effects, rungs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from anypo.compare import stats
from anypo.compare.board import Board, common_unit, measures
from anypo.compare.cell import HISTORY
from anypo.compare.stats import Interval

Records = Sequence[Mapping[str, Any]]

GRID = 24
"""Points of a training curve."""


def page_data(board: Board, records: Records) -> dict[str, Any]:
    """Everything the scripts of the page need. `records`: those the board was made of."""
    drawn = {row.label: curve(_of(records, row.label), board.budget.measure) for row in board.rows}
    return finite(
        {
            "methods": [
                {
                    "label": row.label,
                    "base": row.label == board.base,
                    "rank": row.rank,
                    "runs": row.runs,
                    "seeds": [r["seed"] for r in _of(records, row.label)],
                    "score": triple(row.score),
                    "beats": triple(row.beats_base),
                    "reached": row.reached,
                    "tokens_to": row.tokens_to,
                    "seconds_to": row.seconds_to,
                    "means": row.means,
                    "spent": row.spent,
                }
                for row in board.rows
            ],
            "base": board.base,
            "start": board.start,
            "unit": board.unit,
            "k": board.k,
            "budget": {"measure": board.budget.measure, "amount": board.budget.amount},
            "thresholds": board.thresholds,
            "curves": drawn,
            "fronts": {measure: front(drawn, measure) for measure in measures(records)},
            "training": {row.label: training(_of(records, row.label), board.budget.measure) for row in board.rows},
            "effects": [
                {
                    "factors": effect.factors,
                    "p": effect.p,
                    "levels": [{"names": names, "value": triple(i)} for names, i in effect.levels.items()],
                }
                for effect in board.effects
            ],
        }
    )


def curve(records: Records, measure: str) -> dict[str, Any]:
    """Score of one contender at equal shares of the budget: interquartile mean over its runs with its interval, and the
    mean of what had been spent by then in every measure."""
    unit, counted = common_unit(records), measures(records)
    shares = np.linspace(0.0, 1.0, max(2, max(len(r["curve"]) for r in records)))
    tables = [_on_grid(r["curve"], shares, (unit, *counted)) for r in records]
    tasks = list(dict.fromkeys(r["task"] for r in records))
    found = [
        stats.bootstrap(
            [[t[unit][i] for t, r in zip(tables, records) if r["task"] == task] for task in tasks], draws=1000
        )
        for i in range(len(shares))
    ]
    out: dict[str, Any] = {name: np.mean([t[name] for t in tables], axis=0).tolist() for name in counted}
    return out | {"score": [i.value for i in found], "low": [i.low for i in found], "high": [i.high for i in found]}


def front(curves: Mapping[str, Mapping[str, Any]], measure: str) -> list[dict[str, Any]]:
    """The Pareto front of the score against what was spent, over every method at every evaluation: no point of it is both
    dearer and no better than another."""
    points = [
        {"label": label, "x": x, "y": y} for label, one in curves.items() for x, y in zip(one[measure], one["score"])
    ]
    out: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (p["x"], -p["y"])):
        if not out or point["y"] > out[-1]["y"]:
            out.append(point)
    return out


def training(records: Records, measure: str) -> dict[str, Any]:
    """Step metrics of one contender, averaged over runs on a grid of the budget's measure; None where there is no run."""
    longest = max((r["history"][measure][-1] for r in records if r["history"].get(measure)), default=0.0)
    grid = np.linspace(0.0, longest, GRID + 1)[1:]
    out: dict[str, Any] = {"x": grid.tolist()}
    for name in HISTORY:
        columns = [
            np.interp(grid, *known, right=math.nan)
            for r in records
            if (known := _known(r["history"], measure, name)) is not None
        ]
        if columns:
            table = np.array(columns)
            seen = np.isfinite(table)
            total = np.where(seen, table, 0.0).sum(0)
            out[name] = np.where(seen.any(0), total / np.maximum(1, seen.sum(0)), math.nan).tolist()
    return out


def finite(value: Any) -> Any:
    """`value` as plain lists and mappings, with None for numbers that are not finite."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [finite(item) for item in value]
    return value if math.isfinite(value) else None


def triple(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]


def _of(records: Records, label: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["label"] == label]


def _on_grid(points: Sequence[Mapping[str, float]], shares: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    at = [point["share"] for point in points]
    return {name: np.interp(shares, at, [point[name] for point in points]) for name in names}


def _known(history: Mapping[str, Sequence[float]], measure: str, name: str) -> tuple[list[float], list[float]] | None:
    pairs = [(x, y) for x, y in zip(history.get(measure, ()), history.get(name, ())) if math.isfinite(y)]
    return ([x for x, _ in pairs], [y for _, y in pairs]) if pairs else None
