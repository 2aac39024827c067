"""When a stage has done enough: a question to the metrics it has recorded so far."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from anypo.errors import UserError, shown
from anypo.parts import Part

Rows = Sequence[Mapping[str, Any]]
"""The metrics of a stage's steps so far, in order, as ``metrics.jsonl`` holds them."""

SCORE = "heldout/score"
"""The metric of a held-out evaluation that a stop asked for."""


BOUND = re.compile(r"([\w./@-]+)\s*([<>]=?)\s*(\S+)")
"""A stop in short: the name of a metric, a bound and its value."""


class Stop(Part, slot="stop"):
    """Ends a stage before its steps are over. Asked after every step; the same rows give the same answer, so a run that is
    resumed goes on to the next stage where the uninterrupted one did."""

    @classmethod
    def parse(cls, value: Any) -> Part:
        """As of any part, or from a bound: ``score>=0.9`` (the held-out score), ``policy/entropy<=0.1``."""
        found = BOUND.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            return super().parse(value)
        name, sign, number = found.groups()
        if len(sign) == 1:
            raise UserError(f"{shown(value)}: a bound is written {name}{sign}={number}")
        return (Above if sign == ">=" else Below).make({"metric": SCORE if name == "score" else name, "value": number})

    @property
    def evaluates(self) -> int:
        """Held-out evaluation every so many steps of the stage, recorded as `SCORE`; 0: none is needed."""
        return 0

    @property
    def watched(self) -> str:
        """The metric it looks at, empty for none."""
        return ""

    def reached(self, rows: Rows) -> bool:
        """Whether the stage is over."""
        raise NotImplementedError


class Never(Stop, name="never"):
    """The stage takes all its steps."""

    def reached(self, rows: Rows) -> bool:
        return False


class _Metric(Stop):
    """Looks at one metric: its finite values, the mean of the last `window` of them."""

    metric: str = Field(SCORE, min_length=1, description="a metric of the run; the default is the held-out score")
    window: int = Field(1, ge=1, description="values averaged")
    every: int = Field(10, ge=1, description="steps between held-out evaluations, where the metric is their score")

    @property
    def evaluates(self) -> int:
        return self.every if self.metric == SCORE else 0

    @property
    def watched(self) -> str:
        return self.metric

    def values(self, rows: Rows) -> list[float]:
        """Every finite value of the metric."""
        found = (row.get(self.metric) for row in rows)
        return [float(value) for value in found if isinstance(value, (int, float)) and math.isfinite(value)]

    def level(self, rows: Rows) -> float | None:
        """The mean of the last `window` values, or None before there are as many."""
        values = self.values(rows)
        return sum(values[-self.window :]) / self.window if len(values) >= self.window else None


class Above(_Metric, name="above"):
    """Ends a stage once the metric has reached `value` from below."""

    value: float

    def reached(self, rows: Rows) -> bool:
        level = self.level(rows)
        return level is not None and level >= self.value


class Below(_Metric, name="below"):
    """Ends a stage once the metric has fallen to `value`."""

    value: float

    def reached(self, rows: Rows) -> bool:
        level = self.level(rows)
        return level is not None and level <= self.value


class Plateau(_Metric, name="plateau"):
    """Ends a stage once the mean of the last `window` values is better than that of the `window` before by less than `least`.
    Better is more, or less where the metric is to fall (`falls`: a loss); a change for the worse is no gain."""

    window: int = Field(5, ge=1, description="values averaged")
    least: float = 0.0
    falls: bool = Field(False, description="the metric is to fall, as a loss is")

    def reached(self, rows: Rows) -> bool:
        values = self.values(rows)
        if len(values) < 2 * self.window:
            return False
        last, before = values[-self.window :], values[-2 * self.window : -self.window]
        gain = (sum(last) - sum(before)) / self.window
        return (-gain if self.falls else gain) < self.least
