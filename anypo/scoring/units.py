"""Scores as words: shares as per cent and their changes in points, everything else as the number it is."""

from __future__ import annotations

import math

ACCURACY = "accuracy"
"""The unit of a share of right answers, the only one that is written as per cent."""


def amount(value: float, unit: str, places: int = 1) -> str:
    """A score in its unit: ``23.4 %`` or ``187``; an en dash when it is not known."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.{places}f} %" if unit == ACCURACY else f"{value:.4g}"


def change(value: float, unit: str) -> str:
    """A difference of two scores with its sign, without a unit: points of accuracy, or plain."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:+.1f}" if unit == ACCURACY else f"{value:+.4g}"


def difference(value: float, unit: str, sign: str = "") -> str:
    """A difference of two scores with what it is counted in: ``3.1 points`` of accuracy, or the plain number. `sign`: "+" to
    show it always."""
    said = change(value, unit)
    said = said if sign or value < 0 else said.removeprefix("+")
    return f"{said} points" if unit == ACCURACY else said
