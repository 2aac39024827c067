"""Trust regions whose bounds are found in the data: balanced clipping and the effective-sample-size cap.

Both read statistics of the whole update batch, which the trainer hands over before anything is cut.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import bounded_exp, counted, effective_sample_size, k3, through_logp
from anypo.objective.base import Trust
from anypo.objective.trusts.clips import clipped


class BalancedClip(Trust, name="balanced_clip"):
    """PPO's clip with bounds c_low, c_high on the ratio searched anew for every update, until positive advantages carry at least
    `target` times as much surrogate as negative ones (BAPO, arXiv:2510.18927).

    The bounds walk from `start` to `stop` in steps, the lower first (`order` as in the released code; the paper's listing walks
    the upper one first). Contributions: A min(r, c_high) for A >= 0, A max(r, c_low) for A < 0. They are surrogate *values*, so
    raising c_low never lowers the negative share; with ``contribution: gradient`` only negative rows that still have a gradient
    (r >= c_low) are summed.
    """

    start_low: float = Field(0.6, ge=0.0)
    stop_low: float = Field(0.9, ge=0.0)
    step_low: float = Field(0.05, gt=0.0)
    start_high: float = Field(1.2, ge=0.0)
    stop_high: float = Field(3.0, ge=0.0)
    step_high: float = Field(0.1, gt=0.0)
    target: float = Field(1.0, ge=0.0)
    dual: float | None = Field(3.0, gt=1.0)
    order: Literal["low_first", "high_first"] = "low_first"
    contribution: Literal["value", "gradient"] = "value"

    def refuse(self, algorithm: Any) -> str | None:
        if self.start_low <= self.stop_low <= self.start_high <= self.stop_high:
            return None
        return "bounds must satisfy start_low <= stop_low <= start_high <= stop_high"

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        ratio = bounded_exp(log_ratio)
        low, high = self.bounds(ratio.detach(), advantage, batch)
        value, active = clipped(ratio, advantage, low, high, self.dual)
        context.log("objective/clip_fraction", batch.row_mean(active))
        context.log("objective/clip_low", low)
        context.log("objective/clip_high", high)
        context.log("objective/positive_share", self._balance(ratio.detach(), advantage, batch, low, high)[1])
        return value

    def bounds(self, ratio: Tensor, advantage: Tensor, batch: Batch) -> tuple[float, float]:
        """The first (c_low, c_high) of the walk that meets the target, else the last; all arguments detached."""
        low, high = self.start_low, self.start_high

        def short() -> bool:
            return self._balance(ratio, advantage, batch, low, high)[0] < self.target

        for side in ("low", "high") if self.order == "low_first" else ("high", "low"):
            if side == "low":
                while low < self.stop_low and short():
                    low = min(low + self.step_low, self.stop_low)
            else:
                while high < self.stop_high and short():
                    high = min(high + self.step_high, self.stop_high)
        return low, high

    def _balance(self, ratio: Tensor, advantage: Tensor, batch: Batch, low: float, high: float) -> tuple[float, float]:
        """positive / negative contribution (inf without negatives), and positive / all of it."""
        bounded = torch.where(advantage >= 0, ratio.clamp(max=high), ratio.clamp(min=low))
        part = advantage * bounded * batch.weight.to(ratio.dtype)
        lost = (ratio < low) if self.contribution == "gradient" else torch.zeros_like(ratio, dtype=torch.bool)
        positive = float(part.clamp(min=0).sum())
        negative = float(-part.clamp(max=0)[~lost].sum())
        balance = positive / (negative + 1e-8) if negative > 0 else torch.inf
        return balance, positive / (positive + negative) if positive + negative > 0 else 0.0


class EssCap(Trust, name="ess_cap"):
    """sg[ min(w, ESS) ] A log pi - (1 - ESS) k3(pi || old): one statistic of the batch caps the importance weight and sets the
    pull to the sampling policy (P3O, arXiv:2605.12380).

    ESS = (sum w)^2 / (n sum w^2) over all counted rows, detached. Fresh data: ESS = 1, REINFORCE without a regulariser.
    """

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, batch: Batch, context: Context) -> Tensor:
        share = effective_sample_size(log_ratio, counted(batch))
        weight = torch.minimum(bounded_exp(log_ratio.detach()), share)
        context.log("objective/clip_fraction", batch.row_mean((weight < bounded_exp(log_ratio)).to(weight.dtype)))
        return through_logp(weight * advantage, batch) - (1 - share) * k3(log_ratio)
