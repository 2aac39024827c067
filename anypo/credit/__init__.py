"""Credit: how rewards become advantages. Importing the room registers all its parts."""

from anypo.credit import (
    branches,
    centres,
    gae,
    generalist,
    history,
    lengthwise,
    probe,
    retrospect,
    reward_kl,
    scales,
    select,
    sets,
    shapes,
    shaping,
    trackers,
    weights,
)
from anypo.credit.base import Credit
from anypo.credit.pipeline import Pipeline

__all__ = [
    "Credit", "Pipeline", "branches", "centres", "gae", "generalist", "history", "lengthwise", "probe", "retrospect", "reward_kl",
    "scales", "select", "sets", "shapes", "shaping", "trackers", "weights",
]  # fmt: skip
