"""Segment reductions: sums, means, extrema, ranks and scans of a flat tensor by integer id.

`values` is [N] or [N, ...]; `ids` is an int64 [N] with entries in 0..n-1, in any order; results of reductions are [n, ...].
A segment without members gives 0 for sum, mean, std and count, and the identity (-inf / +inf) for max / min, so nothing here
ever produces NaN from finite input. Reductions are differentiable where torch's scatter operations are.
Scans and ranks work inside each segment, in row order, and return one entry per row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _spread_ids(ids: Tensor, values: Tensor) -> Tensor:
    return ids.reshape(-1, *([1] * (values.dim() - 1))).expand_as(values)


def count(ids: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Members of each segment, [n]."""
    return torch.zeros(n, dtype=dtype, device=ids.device).index_add_(0, ids, torch.ones_like(ids, dtype=dtype))


def sum(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """Sum by segment, [n, ...]."""
    return torch.zeros(n, *values.shape[1:], dtype=values.dtype, device=values.device).index_add(0, ids, values)


def mean(values: Tensor, ids: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """(Weighted) mean by segment; 0 where the total weight is 0.

    The unweighted mean is taken around each segment's minimum, so equal members have exactly their common value as mean:
    rounding must never make an advantage out of a group whose rewards are all the same.
    """
    if weights is None:
        origin = min(values.detach(), ids, n)
        origin = torch.where(torch.isfinite(origin), origin, torch.zeros_like(origin))
        size = count(ids, n, values.dtype).reshape(-1, *([1] * (values.dim() - 1)))
        return origin + sum(values - origin[ids], ids, n) / size.clamp(min=1)
    shape = (-1, *([1] * (values.dim() - 1)))
    total = sum(weights, ids, n).reshape(shape)
    scaled = sum(values * weights.reshape(shape), ids, n)
    return torch.where(
        total > 0, scaled / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(scaled)
    )


def variance(values: Tensor, ids: Tensor, n: int, ddof: int = 0) -> Tensor:
    """Variance by segment with `ddof` degrees of freedom removed; 0 where fewer than ddof+1 members."""
    deviation = values - mean(values, ids, n)[ids]
    size = count(ids, n, values.dtype).reshape(-1, *([1] * (values.dim() - 1)))
    free = size - ddof
    total = sum(deviation * deviation, ids, n)
    return torch.where(free > 0, total / free.clamp(min=1), torch.zeros_like(total))


def std(values: Tensor, ids: Tensor, n: int, ddof: int = 0) -> Tensor:
    """Standard deviation by segment (see `variance`); its gradient at 0 is defined as 0."""
    var = variance(values, ids, n, ddof)
    positive = var > 0
    return torch.where(positive, torch.where(positive, var, torch.ones_like(var)).sqrt(), torch.zeros_like(var))


def max(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """Maximum by segment; -inf for an empty one."""
    start = torch.full((n, *values.shape[1:]), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, _spread_ids(ids, values), values, "amax")


def min(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """Minimum by segment; +inf for an empty one."""
    return -max(-values, ids, n)


def logsumexp(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """log sum exp by segment; -inf for an empty one."""
    top = max(values.detach(), ids, n)
    safe = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
    return sum((values - safe[ids]).exp(), ids, n).log() + safe


def order(ids: Tensor, *keys: Tensor) -> Tensor:
    """Row permutation that sorts by id, then by `keys` (first key first), stable, [N]."""
    permutation = torch.arange(len(ids), device=ids.device)
    for key in (*reversed(keys), ids):
        permutation = permutation[torch.argsort(key[permutation], stable=True)]
    return permutation


def joint(*keys: Tensor) -> tuple[Tensor, int]:
    """One id for the rows that agree in all `keys` (each int64 [N]), numbered in the order of their values, [N]; and how many."""
    distinct, ids = torch.unique(torch.stack(keys, 1), dim=0, return_inverse=True)
    return ids, len(distinct)


def firsts(ids: Tensor, n: int) -> Tensor:
    """The first row of each segment, int64 [n]; every segment has one."""
    rows = torch.arange(len(ids), device=ids.device)
    return torch.zeros(n, dtype=torch.int64, device=ids.device).scatter_reduce(0, ids, rows, "amin", include_self=False)


def lasts(ids: Tensor, n: int) -> Tensor:
    """The last row of each segment, int64 [n]; every segment has one."""
    rows = torch.arange(len(ids), device=ids.device)
    return torch.zeros(n, dtype=torch.int64, device=ids.device).scatter_reduce(0, ids, rows, "amax", include_self=False)


def starts(ids: Tensor, n: int) -> Tensor:
    """First index of each segment in the order of `order(ids)`, [n]."""
    size = torch.bincount(ids, minlength=n)
    return size.cumsum(0) - size


def within(ids: Tensor, n: int) -> Tensor:
    """0-based place of each row inside its segment, in row order, [N]."""
    permutation = order(ids)
    place = torch.empty_like(ids)
    place[permutation] = torch.arange(len(ids), device=ids.device) - starts(ids, n)[ids[permutation]]
    return place


def pad(values: Tensor, ids: Tensor, n: int, fill: float) -> tuple[Tensor, Tensor]:
    """`values` [N] laid out as [n, longest], rows in order, `fill` behind; and the place of each row, [N]."""
    place = within(ids, n)
    width = int(place.max()) + 1 if len(place) else 0
    table = torch.full((n, width), fill, dtype=values.dtype, device=values.device)
    return table.index_put((ids, place), values), place


def cumsum(values: Tensor, ids: Tensor, n: int, reverse: bool = False, exclusive: bool = False) -> Tensor:
    """Running sum inside each segment (from its end with `reverse`; without the row itself with `exclusive`), [N]."""
    table, place = pad(values, ids, n, 0.0)
    table = table.flip(1) if reverse else table
    scan = table.cumsum(1)
    if exclusive:  # shifted, not subtracted: a huge own value must not cancel the others
        scan = torch.cat([torch.zeros_like(scan[:, :1]), scan[:, :-1]], 1)
    return (scan.flip(1) if reverse else scan)[ids, place]


def cummin(values: Tensor, ids: Tensor, n: int, exclusive: bool = False, first: float = torch.inf) -> Tensor:
    """Running minimum inside each segment; with `exclusive`, over the rows before, and `first` for the first row, [N]."""
    table, place = pad(values, ids, n, torch.inf)
    scan = table.cummin(1).values
    if exclusive and table.shape[1]:
        lead = torch.full((n, 1), first, dtype=values.dtype, device=values.device)
        scan = torch.cat([lead, scan[:, :-1]], 1)
    return scan[ids, place]


def cummax(values: Tensor, ids: Tensor, n: int, exclusive: bool = False, first: float = -torch.inf) -> Tensor:
    """Running maximum inside each segment (see `cummin`), [N]."""
    return -cummin(-values, ids, n, exclusive, -first)


def discounted(values: Tensor, ids: Tensor, n: int, decay: float | Tensor) -> Tensor:
    """Discounted sum to the end of the segment, out[t] = values[t] + decay[t] * out[t+1] (decay scalar or [N]), [N]."""
    table, place = pad(values, ids, n, 0.0)
    rate = decay if isinstance(decay, Tensor) else torch.full_like(values, decay)
    rates, _ = pad(rate.to(values.dtype), ids, n, 0.0)
    carry = torch.zeros(n, dtype=values.dtype, device=values.device)
    columns = []
    for t in range(table.shape[1] - 1, -1, -1):
        carry = table[:, t] + rates[:, t] * carry
        columns.append(carry)
    return torch.stack(columns[::-1], 1)[ids, place] if columns else values


def rank(values: Tensor, ids: Tensor, n: int, descending: bool = False) -> Tensor:
    """0-based rank of each row inside its segment by value (ties in row order), [N] int64."""
    permutation = order(ids, -values if descending else values)
    place = torch.empty_like(ids)
    place[permutation] = torch.arange(len(ids), device=ids.device) - starts(ids, n)[ids[permutation]]
    return place


def quantile(values: Tensor, ids: Tensor, n: int, q: float) -> Tensor:
    """Linearly interpolated quantile by segment, [n]; 0 for an empty one."""
    if not len(values):
        return torch.zeros(n, dtype=values.dtype, device=values.device)
    ordered = values[order(ids, values)]
    size, begin = torch.bincount(ids, minlength=n), starts(ids, n)
    at = q * (size - 1).clamp(min=0).to(values.dtype)
    low = at.floor().long()
    high = torch.minimum(low + 1, (size - 1).clamp(min=0))
    last = len(values) - 1
    below, above = ordered[(begin + low).clamp(max=last)], ordered[(begin + high).clamp(max=last)]
    out = below + (at - low) * (above - below)
    return torch.where(size > 0, out, torch.zeros_like(out))


def median(values: Tensor, ids: Tensor, n: int) -> Tensor:
    """Median by segment (mean of the middle two for even sizes), [n]; 0 for an empty one."""
    return quantile(values, ids, n, 0.5)
