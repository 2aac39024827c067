"""Attention over a packed prefix tree: each token attends to its ancestors and itself.

In preorder, what the consecutive tokens a..b-1 attend to lies among the ancestors of token a and the tokens a..b-1
themselves. So the tree is cut into blocks of consecutive queries, each with its short list of keys and a mask; blocks with
about as many keys go through one call of scaled-dot-product attention. Nothing is padded outside of these calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anypo.engine.training.packing import Packed


@dataclass(frozen=True)
class Bucket:
    """B blocks of C queries with K keys each: tree indices queries [B, C] and keys [B, K], additive mask [B, 1, C, K]."""

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Plan:
    """The buckets of a tree, and where each token's result stands in the concatenation of their results, [N]."""

    buckets: tuple[Bucket, ...]
    place: Tensor


def plan(tree: Packed, dtype: torch.dtype, device: torch.device | str = "cpu", block: int | None = None) -> Plan:
    """Cut `tree` into blocks of `block` queries. The default grows with the depth: gathered keys then cost a bounded factor
    of the tree's own memory, and the triangle wasted inside a block stays small beside its ancestors."""
    n = len(tree)
    block = block or int(np.clip(32 * round(float(tree.depth.mean()) / 128), 64, 512))
    blocks: dict[int, list[tuple[int, np.ndarray]]] = {}
    for start in range(0, n, block):
        keys = np.concatenate([tree.ancestors(start), np.arange(start, min(start + block, n))])
        blocks.setdefault(_rounded(len(keys)), []).append((start, keys))
    buckets, order = [], []
    for width, members in blocks.items():
        queries = np.minimum(np.array([start for start, _ in members])[:, None] + np.arange(block), n - 1)
        keys = np.full((len(members), width), n)  # n is no token: a key behind every query
        for row, (_, present) in enumerate(members):
            keys[row, : len(present)] = present
        buckets.append(_bucket(tree, queries, keys, dtype, device))
        order.append(queries.ravel())
    place = np.empty(n, dtype=np.int64)
    flat = np.concatenate(order)
    place[flat] = np.arange(len(flat))
    return Plan(tuple(buckets), torch.as_tensor(place, device=device))


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """Attention of rotated queries [N, heads, D] to keys and values [N, kv_heads, D] over the tree, [N, heads * D]."""
    heads, groups, kv = q.shape[1], q.shape[1] // k.shape[1], torch.cat((k, v), 1)
    results = []
    for bucket in plan.buckets:
        gathered = kv.index_select(0, bucket.keys.flatten()).view(*bucket.keys.shape, *kv.shape[1:]).transpose(1, 2)
        keys, values = gathered.chunk(2, 1)
        queries = q.index_select(0, bucket.queries.flatten()).view(*bucket.queries.shape, *q.shape[1:]).transpose(1, 2)
        if q.is_cuda and groups > 1:  # no masked kernel there takes fewer key heads than query heads
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bucket.mask, enable_gqa=keys.shape[1] < heads
        )
        results.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
    return (torch.cat(results) if len(results) > 1 else results[0]).index_select(0, plan.place)


def _rounded(count: int) -> int:
    """`count` rounded up to a coarse grid (at most an eighth more, multiples of 16), so that few widths are distinct."""
    step = max(16, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def _bucket(
    tree: Packed, queries: np.ndarray, keys: np.ndarray, dtype: torch.dtype, device: torch.device | str
) -> Bucket:
    end = np.append(tree.end, 0)[keys][:, None, :]
    at, of = queries[:, :, None], keys[:, None, :]
    visible = torch.as_tensor((of <= at) & (at < end), device=device)[:, None]
    mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)
    inside = np.minimum(keys, len(tree) - 1)
    return Bucket(torch.as_tensor(queries, device=device), torch.as_tensor(inside, device=device), mask)
