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
    """Mixed value-at-risk over bundles (RiskPO, arXiv:2510.00911; github.com/RTkenny/RiskPO 8dce3fa).

    Prompts are taken `bundle` at a time; bundle j of such a set holds one response of each prompt, by an independent random
    permutation per prompt, and scores the sum S_j of their rewards. With the quantiles q_a, q_b of scores at `alpha` and
    `beta`, its advantage is the mixture, by weights tail : 1, of the lower tail's expected shortfall -(q_a - S_j)^+ / alpha and the
    middle's (clip(S_j, q_a, q_b) - q_a) / (beta - alpha). `side` = upper mirrors it, (S_j - q_b)^+ / (1 - beta) in the place of the
    shortfall (risk seeking, the paper's counter-example). `std`: divided by the deviation of the set's scores, nothing where these do
    not vary: all its responses would get the same, and drift with the quantiles' last step, away from right answers too (the release
    divides by 1e-6 there, so that such a set outweighs all others). A set of one bundle is not divided.

    inside: what the responses of a bundle get of its advantage A_j. ``deviation``: A_j d_i / sum of d over the bundle, d_i the
    reward minus the mean of its prompt's rewards; equal parts A_j / n where the sum vanishes. A response above its prompt's mean gains
    where A_j and the bundle's total deviation have the same sign (and loses where they do not: a total between q_a and what the means
    add up to). ``uniform``: A_j each, the paper's formula.

    A last set of m < `bundle` prompts is held against the quantiles with scores scaled to `bundle` prompts, S_j bundle / m; its
    bundles do not move them. The quantiles are tracked across steps: started at the first batch's empirical ones, then
    q <- q + rate (s - share of scores below q).
    """

    bundle: int = Field(5, ge=1)
    alpha: float = Field(0.2, gt=0.0, lt=1.0)
    beta: float = Field(0.8, gt=0.0, lt=1.0)
    tail: float = Field(1.5, ge=0.0, description="weight of the tail, beside 1 for the middle")
    side: Literal["lower", "upper"] = "lower"
    inside: Literal["deviation", "uniform"] = "deviation"
    std: bool = True
    rate: float = Field(0.1, gt=0.0)
    shaping: tuple[Shaping, ...] = ()

    def refuse(self, algorithm: Any) -> str | None:
        return None if self.alpha < self.beta else f"alpha = {self.alpha:g} must be below beta = {self.beta:g}"

    def regime(self) -> tuple[str, ...]:
        return (f"bundles of {self.bundle} prompts; quantiles tracked at the constant rate {self.rate:g}",)

    def start(self) -> dict[str, Any]:
        return {"low": None, "high": None}

    def assign(self, batch: Batch, context: Context) -> Batch:
        for shaping in self.shaping:
            batch = shaping.shape(batch, context)
        if not batch.n_sequences:
            return with_advantage(batch, torch.zeros_like(batch.weight), context)
        ids, sets, n = bundles(batch, self.bundle, context)
        reward = batch.sequences["reward"]
        size = segments.count(ids, n, reward.dtype)
        scores = segments.sum(reward, ids, n) * (self.bundle / size)
        whole = size == self.bundle
        low, high = self._track(scores[whole] if bool(whole.any()) else scores, context)
        advantage = self.mixture(scores, low, high)
        if self.std:
            advantage = self._scaled(advantage, scores, sets)
        context.log("credit/quantile_low", low)
        context.log("credit/quantile_high", high)
        share = self._shares(reward, batch, ids, n)
        return with_advantage(batch, batch.spread(advantage[ids] * share), context)

    def _scaled(self, advantage: Tensor, scores: Tensor, sets: Tensor) -> Tensor:
        """Advantages [n] over the deviation of their set's scores: as they are where a set has one, 0 where all are equal."""
        number = int(sets.max()) + 1
        spread = segments.std(scores, sets, number, 1)[sets]
        alone = segments.count(sets, number, scores.dtype)[sets] == 1
        flat = ~alone & ~(spread > 1e-9)
        divisor = torch.where(alone | flat, torch.ones_like(spread), spread + 1e-6)
        return torch.where(flat, torch.zeros_like(advantage), advantage / divisor)

    def mixture(self, scores: Tensor, low: float, high: float) -> Tensor:
        """Advantage of bundles with these scores [n] under the quantiles."""
        middle = (scores.clamp(low, high) - low) / (self.beta - self.alpha)
        shortfall, surplus = -(low - scores).clamp(min=0) / self.alpha, (scores - high).clamp(min=0) / (1 - self.beta)
        return (self.tail * (shortfall if self.side == "lower" else surplus) + middle) / (self.tail + 1)

    def _shares(self, reward: Tensor, batch: Batch, ids: Tensor, n: int) -> Tensor:
        """What part of its bundle's advantage every response gets, [S]."""
        if self.inside == "uniform":
            return torch.ones_like(reward)
        deviation = reward - segments.mean(reward, batch.group, batch.n_groups)[batch.group]
        total, size = segments.sum(deviation, ids, n)[ids], segments.count(ids, n, reward.dtype)[ids]
        varied = total.abs() > 1e-6
        return torch.where(varied, deviation / torch.where(varied, total, torch.ones_like(total)), 1 / size)

    def _track(self, scores: Tensor, context: Context) -> tuple[float, float]:
        """The quantiles to use now; then one step of both trackers."""
        memory = context.memory[self]
        if memory["low"] is None:
            memory["low"], memory["high"] = (float(scores.double().quantile(q)) for q in (self.alpha, self.beta))
        low, high = memory["low"], memory["high"]
        for name, level in (("low", self.alpha), ("high", self.beta)):
            memory[name] = track(memory[name], scores, level, self.rate)
        return low, max(low, high)


def track(quantile: float, scores: Tensor, level: float, gain: float) -> float:
    """One step of stochastic approximation of the `level` quantile: q + gain (level - share of scores below q)."""
    return quantile + gain * (level - float((scores < quantile).double().mean()))


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
