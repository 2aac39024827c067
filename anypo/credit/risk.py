"""Risk-sensitive credit: responses to several prompts are bundled, and a bundle's advantage weighs the lower tail of scores."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Credit, Shaping
from anypo.credit.critics.gae import with_advantage
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.numerics import keyed_uniform


class RiskBundles(Credit, name="risk_bundles"):
    """Mixed value-at-risk over bundles (RiskPO, arXiv:2510.00911).

    Prompts are taken `bundle` at a time; bundle j of such a set holds one response of each prompt, by an independent random
    permutation per prompt, and scores the sum S_j of their rewards. With the quantiles q_a, q_b of scores at `alpha` and
    `beta`, all its responses get A_j = -(1 + tail)(q_a - S_j)^+ + clip(S_j, q_a, q_b) - q_b, which pushes hardest below q_a
    and not at all above q_b. `side` = upper mirrors it: (1 + tail)(S_j - q_b)^+ + clip(S_j, q_a, q_b) - q_a (risk seeking, the
    paper's counter-example). `centre`: subtract the mean of A over the set's bundles (without it every A_j <= 0 in the lower tail).

    The quantiles are tracked across steps: started at the first batch's empirical ones, then
    q <- q + rate (k + 1)^-power (s - share of scores below q).
    """

    bundle: int = Field(5, ge=1)
    alpha: float = Field(0.2, gt=0.0, lt=1.0)
    beta: float = Field(0.8, gt=0.0, lt=1.0)
    tail: float = Field(0.5, description="extra weight of the lowest scores")
    side: Literal["lower", "upper"] = "lower"
    centre: Literal["mean", "none"] = "mean"
    rate: float = Field(1.0, gt=0.0)
    power: float = Field(0.6, gt=0.5, le=1.0)
    shaping: tuple[Shaping, ...] = ()

    def refuse(self, algorithm: Any) -> str | None:
        return None if self.alpha < self.beta else f"alpha = {self.alpha:g} must be below beta = {self.beta:g}"

    def start(self) -> dict[str, Any]:
        return {"low": None, "high": None, "count": 0}

    def assign(self, batch: Batch, context: Context) -> Batch:
        for shaping in self.shaping:
            batch = shaping.shape(batch, context)
        ids, sets, n = bundles(batch, self.bundle, context)
        scores = segments.sum(batch.sequences["reward"], ids, n)
        low, high = self._track(scores, context)
        if self.side == "lower":
            advantage = tail_advantage(scores, low, high, self.tail)
        else:
            advantage = -tail_advantage(-scores, -high, -low, self.tail)
        if self.centre == "mean":
            advantage = advantage - segments.mean(advantage, sets, int(sets.max()) + 1 if n else 0)[sets]
        context.log("credit/quantile_low", low)
        context.log("credit/quantile_high", high)
        return with_advantage(batch, batch.spread(advantage[ids]), context)

    def _track(self, scores: Tensor, context: Context) -> tuple[float, float]:
        """The quantiles to use now; then one step of both trackers."""
        memory = context.memory[self]
        if memory["low"] is None and len(scores):
            memory["low"], memory["high"] = (float(scores.double().quantile(q)) for q in (self.alpha, self.beta))
        low, high = memory["low"] or 0.0, memory["high"] or 0.0
        if len(scores):
            memory["count"] += 1
            gain = self.rate * (memory["count"] + 1) ** -self.power
            for name, level in (("low", self.alpha), ("high", self.beta)):
                memory[name] = track(memory[name], scores, level, gain)
        return low, max(low, high)


def track(quantile: float, scores: Tensor, level: float, gain: float) -> float:
    """One step of stochastic approximation of the `level` quantile: q + gain (level - share of scores below q)."""
    return quantile + gain * (level - float((scores < quantile).double().mean()))


def tail_advantage(scores: Tensor, low: float, high: float, tail: float) -> Tensor:
    """-(1 + tail)(low - S)^+ + clip(S, low, high) - high, [n]: never positive, 0 for S >= high."""
    return -(1 + tail) * (low - scores).clamp(min=0) + scores.clamp(low, high) - high


def bundles(batch: Batch, size: int, context: Context) -> tuple[Tensor, Tensor, int]:
    """Bundle id of every sequence [S], set id of every bundle [n], and the number n of bundles.

    Groups, in the order of their ids, form sets of `size`; inside a set the j-th responses of each group's random permutation
    make bundle j. The permutation is keyed by prompt and sample, not by packing order.
    """
    _, group = torch.unique(batch.group, return_inverse=True)
    noise = keyed_uniform((batch.sequences["prompt"], batch.sequences["sample"]), context, 37)
    place = segments.rank(noise, group, int(group.max()) + 1 if len(group) else 0)
    key = torch.stack([group // size, place], 1)
    distinct, ids = torch.unique(key, dim=0, return_inverse=True)
    return ids, distinct[:, 0], len(distinct)
