"""Numbers as words, the same in the terminal and on the page."""

from __future__ import annotations

import math

UNITS = {
    "tokens": "generated tokens",
    "trained": "trained tokens",
    "seconds": "s",
    "updates": "updates",
    "rollouts": "rollouts",
}


def percent(share: float, places: int = 1) -> str:
    """A share as per cent; an en dash when unknown."""
    return "–" if math.isnan(share) else f"{100 * share:.{places}f} %"


def short(value: float) -> str:
    """A number with three digits and a suffix: 950, 12.3k, 2M; an en dash when unknown."""
    if math.isnan(value):
        return "–"
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def quantity(value: float, measure: str) -> str:
    """An amount of a budget measure with its unit."""
    return duration(value) if measure == "seconds" else f"{short(value)} {UNITS[measure]}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest; an en dash when unknown."""
    if math.isnan(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    pieces = [(hours, "h"), (minutes, "min"), (rest, "s")]
    kept = [f"{count} {unit}" for count, unit in pieces if count][:2]
    return " ".join(kept)


def place(rank: tuple[int, int]) -> str:
    """`1` or, where the place is open, `1–3`."""
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"
