"""Token rejection by predicted curvature: what would one optimiser step on this token alone do to the objective and the policy?

A last-layer model answers it from the forward pass: logits z_t = W h_t / T, p_t = softmax(z_t). For a candidate step D of W,
with d_t = D h_t / T, u_t = d_t[y_t] - p_t.d_t and v_t = Var_{p_t}(d_t), the predicted change of the token's own objective is
m_H = A_t u_t + A_t (u_t^2 - v_t) / 2, and the predicted shift of its distribution m_F = v_t / 2, about the KL (CAPO,
arXiv:2510.00819; the closed forms follow from the softmax's gradient, Hessian and Fisher matrix).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.tokens import decided_tokens
from anypo.update.base import StepRule
from anypo.update.optimisers import SGD, AdamW
from anypo.update.rules.head import Head

CHUNK = 4_000_000
"""Most numbers of one [tokens, support, hidden] block."""


class CurvatureRejection(StepRule, name="curvature"):
    """Masks, before every optimiser step, the tokens whose own step would leave low <= m_H <= high or m_F <= shift.

    The candidate step is the one the real optimiser would take on the last layer from this token's gradient alone, with its
    present moments (Adam) or momentum. Of every distribution only the `support` most likely tokens and the one taken are
    used. With all bounds infinite nothing is rejected. share: in the place of `shift` the largest predicted shifts of every batch,
    so much of its counted tokens: a bound that travels between models and learning rates.
    """

    low: float = -math.inf
    high: float = math.inf
    shift: float = Field(math.inf, ge=0.0, description="largest predicted KL, nats")
    share: float = Field(0.0, ge=0.0, lt=1.0, description="tokens rejected for their shift; 0: by `shift`")
    support: int = Field(32, ge=1)
    reads = frozenset({"hidden", "logp", "advantage"})

    def refuse(self, algorithm: Any) -> str | None:
        optimiser = getattr(algorithm.update, "optimiser", None)
        if isinstance(optimiser, (AdamW, SGD)):
            return None
        return "it predicts the step of adamw or sgd on the last layer; set update.optimiser to one of them"

    def weigh(self, batch: Batch, context: Context) -> Tensor:
        if context.head is None or not len(batch):
            return batch.weight
        change, shift = predict(batch, context.head, self.support)
        counted = batch.weight > 0
        most = shift[counted].quantile(1 - self.share) if self.share and bool(counted.any()) else self.shift
        keep = (change >= self.low) & (change <= self.high) & (shift <= most)
        context.log("update/predicted_shift", batch.row_mean(shift))
        context.log("update/rejected_share", 1 - batch.row_mean(keep.to(batch.weight.dtype)))
        return batch.weight * (keep | ~counted)


def predict(batch: Batch, head: Head, support: int) -> tuple[Tensor, Tensor]:
    """Predicted change m_H of every token's objective and shift m_F of its distribution, both [N]; computed where the head is."""
    hidden = batch["hidden"].to(torch.promote_types(head.weight.dtype, torch.float32))
    heat = batch.spread(batch.sequences["temperature"]).to(hidden.dtype)
    heat = torch.where(heat > 0, heat, torch.ones_like(heat))
    advantage = batch["advantage"].to(hidden.dtype)
    size = max(1, CHUNK // ((min(support, len(head.weight)) + 1) * max(1, hidden.shape[1])))
    token = decided_tokens(batch)
    cuts = (slice(i, i + size) for i in range(0, len(batch), size))
    hidden, token, advantage, heat = (x.to(head.weight.device) for x in (hidden, token, advantage, heat))
    pieces = [_predict(hidden[cut], token[cut], advantage[cut], heat[cut], head, support) for cut in cuts]
    change, shift = (torch.cat(column).to(batch.weight) for column in zip(*pieces))
    return change, shift


def _predict(
    hidden: Tensor, token: Tensor, advantage: Tensor, heat: Tensor, head: Head, support: int
) -> tuple[Tensor, Tensor]:
    rows, probability, taken = distribution(hidden, token, heat, head.weight.to(hidden.dtype), support)
    error = taken.to(hidden.dtype) - probability  # e_y - p on the support, [n, k]
    gradient = -(advantage / heat)[:, None, None] * error[:, :, None] * hidden[:, None, :]  # of the loss, [n, k, d]
    step = head.step_of(gradient, rows)
    moved = (step * hidden[:, None, :]).sum(-1) / heat[:, None]
    return curvature(moved, probability, taken, advantage)


def distribution(
    hidden: Tensor, token: Tensor, heat: Tensor, weight: Tensor, support: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `support` most likely tokens of every row and the one taken: their ids [n, k], probabilities (0 for the duplicate of a
    taken token, renormalised over the support) and which is the taken one (bool [n, k]); k = support + 1."""
    logits = hidden @ weight.T / heat[:, None]
    best = logits.topk(min(support, logits.shape[1]), dim=1).indices
    rows = torch.cat([best, token[:, None]], 1)
    repeated = torch.cat([best == token[:, None], torch.zeros_like(token[:, None], dtype=torch.bool)], 1)
    chosen = logits.gather(1, rows).masked_fill(repeated, -torch.inf)
    taken = torch.zeros_like(repeated)
    taken[:, -1] = True
    return rows, chosen.softmax(1), taken


def curvature(moved: Tensor, probability: Tensor, taken: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """m_H and m_F [n] of logit changes `moved` [n, k] under the given distribution."""
    mean = (probability * moved).sum(1)
    gain = (moved * taken).sum(1) - mean
    variance = (probability * (moved - mean[:, None]) ** 2).sum(1)
    return advantage * gain + advantage * (gain**2 - variance) / 2, variance / 2
