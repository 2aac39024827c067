"""Importance ratios, in log space."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.base import Ratio

Denominator = Literal["old", "behaviour", "ref"]
"""Whose log-probability is divided by: the trainer's at the start of the step, the sampler's, or the reference's."""


def log_ratio(batch: Batch, denominator: Denominator) -> Tensor:
    """log pi_theta(a_t) - log pi_denominator(a_t) per row, [N]."""
    return batch["logp"] - batch[f"logp_{denominator}"]


class TokenRatio(Ratio, name="token"):
    """pi_theta(a_t) / pi_old(a_t) for every decision (PPO, arXiv:1707.06347)."""

    denominator: Denominator = "old"

    def needs(self) -> frozenset[str]:
        return frozenset({f"logp_{self.denominator}"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.denominator == "ref" else frozenset()

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return log_ratio(batch, self.denominator)
