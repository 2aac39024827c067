"""Per-token shaping of advantages [N]. Everything read is fixed during the update, so nothing differentiates through it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shape
from anypo.credit.reading import outcome
from anypo.data import segments
from anypo.data.batch import Batch


class EntropyBonus(Shape, name="entropy_bonus"):
    """A + min(|A| / `cap`, `weight` H_t), H the policy's entropy at the decision (MSSR, arXiv:2512.18215). With `cap`
    above 1 the sign of A is kept: uncertain decisions are rewarded more and punished less."""

    weight: float = Field(0.4, ge=0.0)
    cap: float = Field(2.0, gt=0.0)
    reads = frozenset({"entropy_old"})

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        entropy = batch["entropy_old"].to(advantages.dtype).clamp(min=0.0)
        return advantages + torch.minimum(advantages.abs() / self.cap, self.weight * entropy)


class ThoughtEntropy(Shape, name="thought_entropy"):
    """A_i + `weight` min(H_i, abs(A_i) / `cap`), H_i the mean entropy of the rollout's reasoning (FunRL, later called EGPO,
    arXiv:2508.05118), which is the decisions with the key ``thought``: one number for all decisions of the rollout. Where there is no
    reasoning, H is 0. With `weight` at most `cap` the sign of A is kept, and an advantage of 0 stays so."""

    weight: float = Field(0.4, ge=0.0)
    cap: float = Field(2.0, gt=0.0)
    reads = frozenset({"entropy_old"})
    requires = frozenset({"key:thought"})

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        if not len(batch):
            return advantages
        thinking = (batch.key("thought") >= 0).to(advantages.dtype) * batch.weight.to(advantages.dtype)
        entropy = batch["entropy_old"].to(advantages.dtype).clamp(min=0.0)
        mean = batch.spread(segments.mean(entropy, batch.sequence, batch.n_sequences, thinking))
        context.log("credit/thought_entropy", batch.row_mean(mean))
        return advantages + self.weight * torch.minimum(mean, advantages.abs() / self.cap)


class Novelty(Shape, name="novelty"):
    """Right answers that the policy finds unlikely gain (XRPO, arXiv:2510.06672).

    eta_i = exp(s_i - mean_j s_j) with s the mean log-probability of a rollout's decisions; a right rollout's advantage grows by
    min(max(`weight` (1 - eta), 0), `cap` A): by at most a factor 1 + `cap`. Wrong rollouts never change.
    """

    weight: float = Field(1.0, ge=0.0)
    cap: float = Field(0.5, ge=0.0)
    outcome: str = ""
    right: float = 1.0
    reads = frozenset({"logp_old"})

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        likelihood = batch.sequence_mean(batch["logp_old"].to(advantages.dtype))
        eta = (likelihood - segments.mean(likelihood, batch.group, batch.n_groups)[batch.group]).clamp(max=50.0).exp()
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        gain = torch.where(right, (self.weight * (1 - eta)).clamp(min=0.0), torch.zeros_like(eta))
        return advantages + torch.minimum(batch.spread(gain), self.cap * advantages.clamp(min=0.0))


class EntropyResponse(Shape, name="entropy_response"):
    """A times 1 + (Hbar - H_i) / Hbar, with H_i the mean entropy of a response and Hbar its group's mean: confident responses
    count more (Adv-Res of ETTRL, arXiv:2508.11356).

    The factors average to 1 over a group. A response with more than twice the mean entropy gets a negative factor, which flips
    its sign: that is the published form; `floor` = 0 is the repaired one.
    """

    floor: float | None = None
    reads = frozenset({"entropy_old"})

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        entropy = batch.sequence_mean(batch["entropy_old"].to(advantages.dtype))
        mean = segments.mean(entropy, batch.group, batch.n_groups)[batch.group]
        some = mean > 0
        factor = torch.where(some, 1 + (mean - entropy) / torch.where(some, mean, torch.ones_like(mean)), 1.0)
        context.log("credit/flipped_share", (factor < 0).float().mean() if len(factor) else 0.0)
        return advantages * batch.spread(factor if self.floor is None else factor.clamp(min=self.floor))


class Bounded(Shape, name="bounded"):
    """Advantages clipped to [-`bound`, `bound`] (Adv-Clip of ETTRL)."""

    bound: float = Field(1.0, gt=0.0)

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        return advantages.clamp(-self.bound, self.bound)


class Uncertainty(Shape, name="uncertainty"):
    """A (1 + `multiply` S_t) + `add` (S_t - mean of S over the group's decisions), with S_t = `entropy` z(H_t) +
    `doubt` z(1 - c_t) clamped to +-`bound`: effort goes to uncertain, decisive tokens (ECHO's hybrid shaping).

    H_t is the entropy, c_t the probability of the token taken, z() whitens over all counted decisions of the batch.
    `multiply` * `bound` must stay below 1, or signs could flip. Both coefficients are 0 in the released defaults.
    """

    entropy: float = 1.0
    doubt: float = 1.0
    multiply: float = Field(0.0, ge=0.0)
    add: float = 0.0
    bound: float = Field(2.0, gt=0.0)
    reads = frozenset({"entropy_old", "logp_old"})

    def refuse(self, algorithm: object) -> str | None:
        if self.multiply * self.bound < 1:
            return None
        return f"multiply * bound = {self.multiply * self.bound:g} could flip the sign of advantages; keep it below 1"

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        weight = batch.weight.to(advantages.dtype)
        doubt = 1 - batch["logp_old"].to(advantages.dtype).exp()
        score = self.entropy * whiten(batch["entropy_old"].to(advantages.dtype), weight) + self.doubt * whiten(
            doubt, weight
        )
        score = score.clamp(-self.bound, self.bound)
        mean = segments.mean(score, batch.row_group, batch.n_groups, weight)[batch.row_group]
        return advantages * (1 + self.multiply * score) + self.add * (score - mean)


def whiten(values: Tensor, weight: Tensor) -> Tensor:
    """(values - mean) / standard deviation over the counted rows; zeros when they do not vary, [N]."""
    total = weight.sum()
    if total <= 1:
        return torch.zeros_like(values)
    mean = (values * weight).sum() / total
    variance = ((values - mean) ** 2 * weight).sum() / total
    return (values - mean) / variance.sqrt() if variance > 1e-12 * (1 + mean**2) else torch.zeros_like(values)
