"""Intervals in texts: numbers or times of a start and an end."""

from __future__ import annotations

import re

NUMBER = re.compile(r"(?<![\d.:])(?:(?:\d+:)?\d+:\d\d(?:\.\d+)?|-?\d+(?:\.\d+)?)")
"""A time (h:mm:ss, m:ss) or a number; a dash behind a digit is that of a range."""


def interval(text: str) -> tuple[float, float] | None:
    """The last two numbers or times (in seconds, of two parts minutes and seconds) of a text as an ordered interval, or None."""
    numbers = NUMBER.findall(text)
    if len(numbers) < 2:
        return None
    low, high = (sum(float(part) * 60**place for place, part in enumerate(n.split(":")[::-1])) for n in numbers[-2:])
    return (low, high) if low <= high else None


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two intervals; 1 for two equal points."""
    union = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / union if union > 0 else 1.0
