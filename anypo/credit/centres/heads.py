"""Small predictors on the policy's own hidden states, refitted every step from recent rollouts.

Ridge regression on principal components: closed form, so there is nothing to tune and nothing to diverge. A head's whole
state is a buffer of features and targets, kept in the memory of the part that owns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anypo.credit.reading import lengths
from anypo.data import segments
from anypo.data.batch import Batch


def empty_buffer() -> dict[str, Any]:
    """The memory of a head before anything was seen."""
    return {"blocks": [], "targets": torch.zeros(0, dtype=torch.float64)}


def rollout_features(batch: Batch) -> list[Tensor]:
    """Features of every rollout in blocks [S, D_b]: the hidden state that predicts its first decision (a prompt feature), the
    mean hidden state over its decisions, and scalars (mean, last, largest and smallest entropy; log length).

    Columns that the policy does not provide (``hidden``, ``entropy_old``) are left out.
    """
    blocks = []
    n = batch.n_sequences
    if "hidden" in batch.rows:
        hidden = batch["hidden"].double()
        blocks += [_at(hidden, batch, first=True), segments.mean(hidden, batch.sequence, n)]
    scalars = [lengths(batch).double().clamp(min=1.0).log()]
    if "entropy_old" in batch.rows:
        entropy = batch["entropy_old"].double()
        extremes = [segments.max(entropy, batch.sequence, n), segments.min(entropy, batch.sequence, n)]
        scalars += [segments.mean(entropy, batch.sequence, n), _at(entropy, batch, first=False)]
        scalars += [torch.where(torch.isfinite(e), e, torch.zeros_like(e)) for e in extremes]
    return [*blocks, torch.stack(scalars, 1)]


def _at(values: Tensor, batch: Batch, first: bool) -> Tensor:
    """The row at the first or last decision of every sequence, zeros for an empty one."""
    out = values.new_zeros(batch.n_sequences, *values.shape[1:])
    size = batch.sequences["length"]
    edge = batch["position"] == (0 if first else batch.spread(size) - 1)
    return out.index_add(0, batch.sequence[edge], values[edge])


@dataclass(frozen=True)
class RidgeHead:
    """Prediction = clip(mean + standardised principal components @ weights, 0, 1)."""

    centres: list[Tensor]
    bases: list[Tensor]
    weights: Tensor
    mean: Tensor

    def predict(self, blocks: list[Tensor]) -> Tensor:
        """Predicted target of every rollout, float64 [S] in [0, 1]."""
        z = torch.cat([(x - c) @ b for x, c, b in zip(blocks, self.centres, self.bases)], 1)
        return (self.mean + z @ self.weights).clamp(0.0, 1.0)


def fit_head(memory: dict[str, Any], components: int, ridge: float, least: int) -> RidgeHead | None:
    """A head fitted to the buffer, or None while it holds fewer than `least` rollouts.

    components: principal components kept of every block, each scaled to unit variance. ridge: the penalty on the weights.
    """
    targets: Tensor = memory["targets"]
    if len(targets) < least:
        return None
    centres, bases = zip(*(principal(block, components) for block in memory["blocks"]))
    z = torch.cat([(x - c) @ b for x, c, b in zip(memory["blocks"], centres, bases)], 1)
    gram = z.T @ z + max(ridge, 1e-9) * torch.eye(z.shape[1], dtype=z.dtype)
    mean = targets.mean()
    return RidgeHead(list(centres), list(bases), torch.linalg.solve(gram, z.T @ (targets - mean)), mean)


def principal(block: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and projection [D, k] onto the leading principal components, scaled to unit variance (a direction without
    variance projects to zero)."""
    centre = block.mean(0)
    deviation = block - centre
    moving = deviation.abs().amax(0) > 0  # LAPACK may fail to converge on a covariance that is mostly zeros
    if not bool(moving.any()):
        return centre, block.new_zeros(block.shape[1], 1)
    kept = deviation[:, moving]
    values, vectors = torch.linalg.eigh(kept.T @ kept / max(1, len(block) - 1))
    values, vectors = values[-components:], vectors[:, -components:]
    live = values > 1e-10 * values.max()
    basis = block.new_zeros(block.shape[1], vectors.shape[1])
    basis[moving] = vectors * torch.where(live, values.clamp(min=1e-300).rsqrt(), torch.zeros_like(values))
    return centre, basis


def remember(memory: dict[str, Any], blocks: list[Tensor], targets: Tensor, capacity: int, batch: Batch) -> None:
    """Append one entry per rollout to the buffer, in an order that does not depend on packing (see `keep_recent`)."""
    order = segments.order(torch.zeros_like(batch.group), batch.group, batch.sequences["sample"])
    keep_recent(memory, [block[order] for block in blocks], targets[order], capacity)


def keep_recent(memory: dict[str, Any], blocks: list[Tensor], targets: Tensor, capacity: int) -> None:
    """Append features and targets to the buffer and keep the last `capacity`; features of another shape start it anew."""
    fresh = [block.nan_to_num() for block in blocks]
    same = len(memory["blocks"]) == len(fresh) and all(
        a.shape[1] == b.shape[1] for a, b in zip(memory["blocks"], fresh)
    )
    memory["blocks"] = [torch.cat([a, b])[-capacity:] for a, b in zip(memory["blocks"], fresh)] if same else fresh
    old = memory["targets"] if same else memory["targets"][:0]
    memory["targets"] = torch.cat([old, targets.double()])[-capacity:]
