"""Regression of step log-ratios on step advantages: where the log-ratio should go, and no further."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch, segment_ids
from anypo.objective.base import Objective
from anypo.objective.ratios import Denominator


class StepRegression(Objective, name="step_regression"):
    """1/2 mean over steps of (log pi(a|s) / pi_ref(a|s) - A(s, a) / beta)^2 (Direct Advantage Policy Optimization,
    arXiv:2412.18279).

    A step is a segment of decisions between valued states (see ``credit.granularity``), a whole trajectory without any; its
    log-probability is the sum over its counted decisions, its advantage that of its first. At pi = pi_ref the gradient is
    -1/beta times the policy gradient; A = 0 pulls back to the reference.
    """

    beta: float = Field(0.5, gt=0.0)
    against: Denominator = "ref"

    def needs(self) -> frozenset[str]:
        return frozenset({"logp", "advantage", f"logp_{self.against}"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if self.against == "ref" else frozenset()

    def loss(self, batch: Batch, context: Context) -> Tensor:
        ids, n = segment_ids(batch)
        weight = batch.weight.to(batch["logp"].dtype)
        gap = segments.sum((batch["logp"] - batch[f"logp_{self.against}"]) * weight, ids, n)
        advantage = segments.mean(batch["advantage"].to(gap.dtype), ids, n)
        counted = (segments.sum(weight, ids, n) > 0).to(gap.dtype)
        error = (gap - advantage / self.beta) * counted
        context.log("objective/step_gap", (gap.detach() * counted).sum() / counted.sum().clamp(min=1))
        return 0.5 * (error**2).sum() / counted.sum().clamp(min=1)
