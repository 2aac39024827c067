"""Update: what happens to the weights. Importing the room registers all its parts."""

from anypo.parts import load
from anypo.update.base import Optimiser, Reference, Schedule, StepRule, Update
from anypo.update.gradient import SGD, AdamW, Constant, Cosine, GradientUpdate, Linear
from anypo.update.phases import PhasedUpdate
from anypo.update.references import (
    EmaReference,
    FrozenReference,
    NoReference,
    PeriodicReference,
    ReincarnatedReference,
    SoupReference,
)
from anypo.update.snapshots import VersionedReference

load(__name__)

__all__ = [
    "SGD", "AdamW", "Constant", "Cosine", "EmaReference", "FrozenReference", "GradientUpdate", "Linear", "NoReference", "Optimiser",
    "PeriodicReference", "PhasedUpdate", "Reference", "ReincarnatedReference", "Schedule", "SoupReference", "StepRule",
    "Update", "VersionedReference",
]  # fmt: skip
