"""Planners: processes that are solved exactly over tables. They are no methods: nothing is sampled and no weights are trained."""

from anypo.exact.planning.base import Bed, Plan, Planner
from anypo.parts import load

load(__name__)

__all__ = ["Bed", "Plan", "Planner"]
