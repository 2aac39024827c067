"""Multipliers: what weighs a constraint while it is being learned to hold (squared hinge, dual ascent, PID).

A multiplier is asked once per optimiser step with the constraint's violation (statistic minus limit, positive when violated)
and returns the weight to use in this step. Non-finite violations are ignored.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from anypo.context import Context
from anypo.parts import Part


class Multiplier(Part, slot="multiplier"):
    """The weight of a constraint."""

    def weight(self, violation: float, context: Context) -> float:
        raise NotImplementedError


class Fixed(Multiplier, name="fixed"):
    """A constant weight: a plain penalty."""

    value: float = Field(1.0, ge=0.0)

    def weight(self, violation: float, context: Context) -> float:
        return self.value


class Hinge(Multiplier, name="hinge"):
    """strength * max(0, violation): with a constraint K <= limit, lambda * K has the gradient of strength/2 [K - limit]_+^2, no force
    inside and a growing one outside (DisCO, arXiv:2505.12366)."""

    strength: float = Field(1000.0, ge=0.0)

    def weight(self, violation: float, context: Context) -> float:
        return self.strength * max(0.0, violation) if math.isfinite(violation) else 0.0


class DualAscent(Multiplier, name="dual"):
    """Projected dual ascent: the weight of this step is lambda; then lambda <- clip(lambda + rate * violation, 0, most)."""

    initial: float = Field(0.0, ge=0.0)
    rate: float = Field(0.1, gt=0.0)
    most: float = Field(1e6, gt=0.0)

    def start(self) -> dict[str, Any]:
        return {"value": self.initial}

    def weight(self, violation: float, context: Context) -> float:
        memory = context.memory[self]
        current: float = memory["value"]
        if math.isfinite(violation):
            memory["value"] = min(self.most, max(0.0, current + self.rate * violation))
        return current


class LogDual(Multiplier, name="log_dual"):
    """Multiplicative dual ascent: lambda <- lambda * exp(rate * violation), always positive (the adaptive KL coefficient of
    arXiv:1909.08593 with its proportional error bounded to +-`bound`)."""

    initial: float = Field(0.1, gt=0.0)
    rate: float = Field(0.1, gt=0.0)
    bound: float = Field(0.2, gt=0.0)

    def start(self) -> dict[str, Any]:
        return {"log": math.log(self.initial)}

    def weight(self, violation: float, context: Context) -> float:
        memory = context.memory[self]
        current = math.exp(memory["log"])
        if math.isfinite(violation):
            bounded = max(-self.bound, min(self.bound, violation))
            memory["log"] = min(50.0, max(-50.0, memory["log"] + self.rate * bounded))
        return current


class PID(Multiplier, name="pid"):
    """max(0, kp e + ki I + kd (e - e_prev)) with e the violation and I its sum, kept in [-windup, windup] (PID Lagrangian,
    arXiv:2007.03964): reacts at once and damps the oscillation of dual ascent."""

    kp: float = Field(0.3, ge=0.0)
    ki: float = Field(0.01, ge=0.0)
    kd: float = Field(0.05, ge=0.0)
    windup: float = Field(1.0, gt=0.0)

    def start(self) -> dict[str, Any]:
        return {"integral": 0.0, "last": 0.0}

    def weight(self, violation: float, context: Context) -> float:
        memory = context.memory[self]
        if not math.isfinite(violation):
            violation = memory["last"]
        memory["integral"] = max(-self.windup, min(self.windup, memory["integral"] + violation))
        output = self.kp * violation + self.ki * memory["integral"] + self.kd * (violation - memory["last"])
        memory["last"] = violation
        return max(0.0, output)
