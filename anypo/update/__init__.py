"""Update: what happens to the weights. Importing the room registers all its parts."""

from anypo.parts import load
from anypo.update.base import Optimiser, Reference, Schedule, StepRule, Update
from anypo.update.gradient import Constant, Cosine, GradientUpdate, Linear
from anypo.update.optimisers import SGD, Adafactor, AdamW, Muon
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
    "SGD", "Adafactor", "AdamW", "Constant", "Cosine", "EmaReference", "FrozenReference", "GradientUpdate", "Linear", "Muon",
    "NoReference", "Optimiser",
    "PeriodicReference", "PhasedUpdate", "Reference", "ReincarnatedReference", "Schedule", "SoupReference", "StepRule",
    "Update", "VersionedReference",
]  # fmt: skip
