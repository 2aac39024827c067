"""Update: what happens to the weights."""

from anypo.update.base import Optimiser, Reference, Schedule, StepRule, Update
from anypo.update.gradient import SGD, AdamW, Constant, GradientUpdate, Linear
from anypo.update.phases import PhasedUpdate
from anypo.update.references import EmaReference, FrozenReference, NoReference, PeriodicReference

__all__ = [
    "SGD", "AdamW", "Constant", "EmaReference", "FrozenReference", "GradientUpdate", "Linear", "NoReference", "Optimiser",
    "PeriodicReference", "PhasedUpdate", "Reference", "Schedule", "StepRule", "Update",
]  # fmt: skip
