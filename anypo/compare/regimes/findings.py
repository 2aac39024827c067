"""What a study says: a method's gain over the base under every circumstance, which differences are certain, and which methods were
one and the same computation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from anypo.compare.regimes.conditions import REGIMES
from anypo.compare.regimes.study import RATES, STEPS, Study

LEVEL = 0.05

CEILING = 0.97
"""Mean exact reward at the end from which on a base leaves no room to be better."""


@dataclass(frozen=True)
class Cell:
    """A method under a regime. score: its mean exact reward over the run, final: that at the end, means over seeds; gain: how far the
    score lies above the base's with the same seeds, with its 95 % interval (Student's); p: two-sided; certain: p withstands the number
    of methods compared under the regime (Holm). lost: runs that ended in an error. same: methods whose every run was this one's."""

    method: str
    regime: str
    rate: float
    score: float
    final: float
    gain: float
    low: float
    high: float
    p: float
    certain: bool = False
    lost: int = 0
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """The cells by method and regime, what was refused, and a sentence for every regime."""

    base: str
    methods: tuple[str, ...]
    regimes: tuple[str, ...]
    seeds: int
    cells: Mapping[tuple[str, str], Cell]
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data; what is unknown is None."""
        safe = lambda value: None if isinstance(value, float) and not math.isfinite(value) else value
        cells = [{key: safe(value) for key, value in asdict(cell).items()} for cell in self.cells.values()]
        refused = [{"method": m, "regime": r, "reason": why} for (m, r), why in self.refused.items()]
        return {
            "base": self.base, "methods": list(self.methods), "regimes": {r: REGIMES[r].what for r in self.regimes},
            "seeds": self.seeds, "steps": STEPS, "rates": list(RATES), "cells": cells, "refused": refused, "said": dict(self.said),
        }  # fmt: skip


def found(study: Study, base: str) -> Map:
    """The map of a study against one of its methods."""
    cells: dict[tuple[str, str], Cell] = {}
    said = {}
    for regime in study.regimes:
        there = [m for m in study.methods if (m, regime) not in study.refused]
        if base not in there:
            said[regime] = f"{base} cannot be run here, so nothing is compared with it"
            continue
        column = {m: _cell(study, m, regime, base) for m in there}
        column = _certain(column, base)
        same = _same(study, there, regime)
        cells |= {
            (m, regime): Cell(**{**vars(cell), "same": tuple(o for o in there if o != m and same[o] == same[m])})
            for m, cell in column.items()
        }
        said[regime] = _sentence(column, base, len(set(same.values())))
    return Map(base, study.methods, study.regimes, len(study.seeds), cells, study.refused, said)


def _runs(study: Study, method: str, regime: str) -> list[Mapping[str, Any]]:
    return [study.records[method, regime, seed] for seed in study.seeds]


def _cell(study: Study, method: str, regime: str, base: str) -> Cell:
    ours, theirs = _runs(study, method, regime), _runs(study, base, regime)
    lost = sum("error" in run for run in ours)
    areas = [0.0 if run["area"] is None else float(run["area"]) for run in ours]  # a lost run earned nothing
    finals = [0.0 if run["final"] is None else float(run["final"]) for run in ours]
    gains = np.array([a - (0.0 if b["area"] is None else float(b["area"])) for a, b in zip(areas, theirs)])
    low, high, p = _student(gains)
    rate = study.rates[method, regime]
    return Cell(
        method,
        regime,
        rate,
        float(np.mean(areas)),
        float(np.mean(finals)),
        float(gains.mean()),
        low,
        high,
        p,
        lost=lost,
    )


def _student(gains: np.ndarray) -> tuple[float, float, float]:
    """The 95 % interval of the mean of paired gains, and the two-sided p that it is zero. All gains equal: certain, or none."""
    if len(gains) < 2:
        return math.nan, math.nan, math.nan
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))
    if error == 0.0:
        return mean, mean, 1.0 if mean == 0.0 else 0.0
    half = float(stats.t.ppf(1 - LEVEL / 2, len(gains) - 1)) * error
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, len(gains) - 1))


def _certain(column: Mapping[str, Cell], base: str) -> dict[str, Cell]:
    """Which gains are certain, by Holm's step-down over the methods that are not the base."""
    others = sorted(
        (cell for m, cell in column.items() if m != base and not math.isnan(cell.p)), key=lambda cell: cell.p
    )
    kept: set[str] = set()
    for place, cell in enumerate(others):
        if cell.p > LEVEL / (len(others) - place):
            break
        kept.add(cell.method)
    return {m: Cell(**{**vars(cell), "certain": m in kept}) for m, cell in column.items()}


def _same(study: Study, methods: Sequence[str], regime: str) -> dict[str, tuple[Any, ...]]:
    """What tells the computations of methods apart: their rates and the curves of all their runs."""
    return {
        m: (
            study.rates[m, regime],
            *(run.get("print", f"lost: {m}") for run in _runs(study, m, regime)),
        )
        for m in methods
    }


def _sentence(column: Mapping[str, Cell], base: str, computations: int) -> str:
    """What a regime says about the choice of a method."""
    others = [cell for m, cell in column.items() if m != base]
    up = sorted((c for c in others if c.certain and c.gain > 0), key=lambda c: -c.gain)
    down = [c for c in others if c.certain and c.gain < 0]
    one = f"; {len(column)} methods are {computations} computations" if computations < len(column) else ""
    if column[base].final > CEILING:
        one += f"; {base} ends at {100 * column[base].final:.0f} %, so there is little to gain"
    if not up and not down:
        return f"the choice does not show here{one}"
    best = f"; {up[0].method} gains most (+{100 * up[0].gain:.1f} points)" if up else ""
    return f"{len(up)} better and {len(down)} worse than {base}, of {len(others)}{best}{one}"


__all__ = ["CEILING", "Cell", "Map", "found"]
