"""Rollouts whose temperature follows the policy's uncertainty, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.engine.base import Heat, Sampling
from anypo.generate.base import Independent, World


class AdaptiveTemperature(Independent, name="adaptive_temperature"):
    """Independent rollouts at temperature T (1 + width h_t), where h_t in [-1, 1] is the normalised entropy of the policy before the
    token: its logarithm around the `pivot` quantile in standard deviations, each side scaled by its extreme (HAPO).

    Quantile, deviation and extremes are those of the step before's rollouts (at the temperatures they had); the first step samples
    at T. Trained on at T: the sampler's log-probabilities are of what it drew from, and the policy's own are computed anew.
    """

    provides = frozenset({"tempered"})
    width: float = Field(0.05, ge=0.0, lt=1.0, description="largest relative change of the temperature")
    pivot: float = Field(0.8, ge=0.0, le=1.0, description="quantile of entropies that is sampled at T")

    def refuse(self, algorithm: Any) -> str | None:
        if algorithm.engine.part == "local":
            return None
        return "a server draws every token of a request at one temperature; use engine=local"

    def start(self) -> dict[str, Any]:
        return {"heat": None}

    def sampling(self, context: Context) -> Sampling:
        found = context.memory[self]["heat"]
        return dataclasses.replace(super().sampling(context), heat=None if found is None else Heat(self.width, **found))

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = super().rollout(asks, world, context)
        rows = [t.entropy for group in groups for t in group.trajectories if t.entropy is not None]
        context.memory[self]["heat"] = levels(np.concatenate(rows), self.pivot) if rows else None
        return groups


def levels(entropy: np.ndarray, pivot: float) -> dict[str, float] | None:
    """Pivot and scales that map log entropies [N] to [-1, 1]; None where they do not vary."""
    logs = np.log(np.maximum(entropy.astype(np.float64), 1e-6))
    if len(logs) < 2 or not np.ptp(logs):
        return None
    centre, spread = float(np.quantile(logs, pivot)), float(logs.std())
    high, low = (logs.max() - centre) / spread, (centre - logs.min()) / spread
    return {
        "centre": centre,
        "spread": spread,
        "above": float(1 / high) if high > 0 else 0.0,
        "below": float(1 / low) if low > 0 else 0.0,
    }
