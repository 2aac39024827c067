"""Credit: how rewards become advantages. Importing the room registers all its parts."""

from anypo.credit import (
    adaptive_kl,
    branches,
    centres,
    conflict,
    gae,
    generalist,
    history,
    leftover,
    lengthwise,
    optimal_baseline,
    pessimistic,
    probe,
    red,
    retrospect,
    reward_entropy,
    reward_kl,
    risk,
    scales,
    scatter,
    select,
    sets,
    shapes,
    shaping,
    trackers,
    turns,
    weights,
    window,
)
from anypo.credit.base import Credit
from anypo.credit.pipeline import Pipeline

__all__ = [
    "Credit", "Pipeline", "adaptive_kl", "branches", "centres", "conflict", "gae", "generalist", "history", "leftover",
    "lengthwise", "optimal_baseline", "pessimistic", "probe", "red", "retrospect", "reward_entropy", "reward_kl", "risk",
    "scales", "scatter", "select", "sets", "shapes", "shaping", "trackers", "turns", "weights", "window",
]  # fmt: skip
