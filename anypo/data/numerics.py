"""Small numerical helpers every objective shares: bounded exponentials, effective sample size, masked moments, keyed noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch

LIMIT = 20.0
"""Largest |log ratio| that is exponentiated: e^20 = 4.9e8. Beyond it a ratio counts as e^+-20 and passes no gradient."""


def bounded_exp(log_values: Tensor) -> Tensor:
    """exp with the argument clamped to +-LIMIT, so that ratios of 1e+-30 stay finite with their gradients."""
    return log_values.clamp(-LIMIT, LIMIT).exp()


def k1(log_ratio: Tensor) -> Tensor:
    """log (p/q): unbiased for KL(p||q) under p, any sign (Schulman, 'Approximating KL divergence', 2020)."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log p/q)^2 / 2: low variance, biased; its gradient log(p/q) grad log p is that of KL(p||q) under p."""
    bounded = log_ratio.clamp(-LIMIT, LIMIT)
    return bounded * bounded / 2


def k3(log_ratio: Tensor) -> Tensor:
    """q/p - 1 + log(p/q): unbiased for KL(p||q) under p and never negative."""
    bounded = log_ratio.clamp(-LIMIT, LIMIT)
    return torch.expm1(-bounded) + bounded


def counted(batch: Batch) -> Tensor:
    """Rows that count in the loss, bool [N]."""
    return batch.weight > 0


def effective_sample_size(log_weights: Tensor, keep: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the kept entries, detached, in [1/n, 1] (Kish); 1 when nothing is kept.

    Invariant to the scale of the weights, so it is taken relative to the largest one and cannot overflow.
    """
    kept = log_weights.detach()[keep].double()
    if not len(kept):
        return log_weights.new_ones(())
    weights = (kept - kept.max()).exp()
    return (weights.sum() ** 2 / (len(kept) * (weights**2).sum())).to(log_weights.dtype)


def through_logp(weight: Tensor, batch: Batch) -> Tensor:
    """Rows whose value is `weight` and whose gradient is weight * grad logp (the weight itself is detached), [N]."""
    return weight.detach() * (1 + batch["logp"] - batch["logp"].detach())


def median(values: Tensor) -> Tensor:
    """Median of a flat tensor, the mean of the middle two for even sizes (0 when empty)."""
    return values.quantile(0.5) if len(values) else values.new_zeros(())


def row_uniform(batch: Batch, context: Context, salt: int) -> Tensor:
    """One uniform number in [0, 1) per row, [N] float64, keyed by prompt, sample and position (see `keyed_uniform`)."""
    keys = (batch.spread(batch.sequences["prompt"]), batch.spread(batch.sequences["sample"]), batch["position"])
    return keyed_uniform(keys, context, salt)


def keyed_uniform(keys: Sequence[Tensor], context: Context, salt: int) -> Tensor:
    """One uniform number in [0, 1) per entry of the integer `keys` (each [n]), float64 [n]: a function of (seed, step, epoch,
    salt) and of the entry's own keys, so the same whatever the order or the cut of the batch."""
    state = np.random.SeedSequence([context.seed, context.step, context.epoch, salt]).generate_state(1, np.uint64)[0]
    mixed = np.full(len(keys[0]), state, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            mixed = _mix(mixed ^ _mix(key.numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _mix(word: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
