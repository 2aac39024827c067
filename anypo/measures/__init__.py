"""Measures: numbers about data, estimators and policies, each with its interval. They read run folders and change nothing."""

from anypo.measures.base import Estimate, Measure
from anypo.parts import load

load(__name__)

__all__ = ["Estimate", "Measure"]
