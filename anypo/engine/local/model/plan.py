"""Which query rows meet which KV blocks: the index arithmetic of one forward step, shared by all its layers.

A row is one token at one position; it attends to every block of its sequence up to itself. Rows that meet the same block (the
members of a group on their prompt, the branches of a tree on their trunk, the later tokens of a prompt on its beginning) form
one job: their queries, stacked, against that block's keys. Each (row, block) gives a partial output and a log-sum-exp, and a
row's partials are merged in the order of its blocks. So the arithmetic of a row is fixed by its position alone, and no key is
ever padded by more than one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anypo.engine.product import ROWS

TILE = 64
"""Most rows of one job."""

TIERS = np.array([16, 64, 256, 1024, 4096])
"""Rows are merged with rows of about as many blocks, so that one long sequence does not pad all others to its length."""


def row_multiple(size: int, head_dim: int) -> int:
    """Query rows of a job come in multiples of it. Batched products add up rows beyond a multiple of four in another order, and
    leave the matrix library for a loop of their own below 400 multiplications."""
    return 4 * -(-100 // (size * head_dim))


@dataclass
class Feed:
    """Tokens of one sequence to run: positions start..start+len(tokens)-1, with the blocks that cover them and all before.
    The hidden states of the last `wanted` tokens are returned."""

    tokens: np.ndarray
    start: int
    blocks: list[int]
    wanted: int = 1


@dataclass
class Bucket:
    """Jobs with the same number of query rows: queries [J * kv * rows] index into (row, query or key head), the first `real` of
    the `rows` are wanted; blocks [J], or a slice where they lie side by side; additive mask [J, 1, real, block size], None
    when every key is visible."""

    queries: Tensor
    blocks: Tensor | slice
    mask: Tensor | None
    jobs: int
    rows: int
    real: int


@dataclass
class Merge:
    """How the partials of rows come together. heads: where those of the rows lie among all [R * heads]. parts [P, n]: where each
    one's partials lie among the buckets' outputs, in the order of its blocks. absent [P, n]: 0 where such a partial exists and
    -inf where it does not, None when all exist."""

    heads: slice
    parts: Tensor
    absent: Tensor | None


@dataclass
class Plan:
    """tokens, positions [R]: what enters, by tier, R a multiple of `ROWS`. slots [R * kv]: where each row's heads write their key
    and value, (block, head, place in the block) flattened (padding rows write into block 0). wanted: rows whose hidden
    states are asked for, in the order of the feeds. merges: one for every tier, in order."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    wanted: Tensor
    buckets: list[Bucket]
    merges: list[Merge]


def build(
    feeds: Sequence[Feed],
    size: int,
    heads: int,
    kv_heads: int,
    multiple: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Plan:
    """The plan of one step. size: tokens per block. multiple: see `row_multiple`."""
    count = np.array([len(feed.tokens) for feed in feeds])
    real = int(count.sum())
    first = count.cumsum() - count
    tokens = np.concatenate([feed.tokens for feed in feeds])
    positions = np.arange(real) + np.repeat(np.array([feed.start for feed in feeds]) - first, count)
    n_blocks = np.array([len(feed.blocks) for feed in feeds])
    table = np.fromiter((block for feed in feeds for block in feed.blocks), np.int64, int(n_blocks.sum()))
    table_start = np.repeat(n_blocks.cumsum() - n_blocks, count)
    wanted = np.concatenate([np.arange(f + c - feed.wanted, f + c) for f, c, feed in zip(first, count, feeds)])

    blocks = positions // size + 1
    tier = np.searchsorted(TIERS, blocks)
    order = np.argsort(tier, kind="stable")
    tokens, positions, table_start, blocks, tier = (x[order] for x in (tokens, positions, table_start, blocks, tier))
    new_row = np.empty(real, dtype=np.int64)
    new_row[order] = np.arange(real)
    slots = table[table_start + blocks - 1] * (kv_heads * size) + positions % size

    pair_row = np.repeat(np.arange(real), blocks)
    depth = np.arange(len(pair_row)) - np.repeat(blocks.cumsum() - blocks, blocks)
    pair_block = table[table_start[pair_row] + depth]
    visible = np.minimum(size, positions[pair_row] + 1 - depth * size)
    buckets, place = _buckets(pair_row, pair_block, visible, size, heads, kv_heads, multiple, device, dtype)

    rows = -(-real // ROWS) * ROWS
    merges = _merges(blocks, tier, pair_row, depth, place, rows, device)

    def padded(x: np.ndarray) -> Tensor:
        out = np.zeros(rows, dtype=np.int64)
        out[:real] = x
        return torch.from_numpy(out).to(device)

    return Plan(
        padded(tokens),
        padded(positions),
        (padded(slots)[:, None] + torch.arange(kv_heads, device=device) * size).flatten(),
        torch.from_numpy(new_row[wanted]).to(device),
        buckets,
        merges,
    )


def _merges(
    blocks: np.ndarray,
    tier: np.ndarray,
    pair_row: np.ndarray,
    depth: np.ndarray,
    place: np.ndarray,
    rows: int,
    device: torch.device,
) -> list[Merge]:
    """One for every tier of rows, which lie side by side; padding rows go with the last."""
    heads, real, found = place.shape[1], len(blocks), []
    ends = [*(np.flatnonzero(np.diff(tier)) + 1).tolist(), real]
    for begin, end in zip([0, *ends], ends):
        n = (rows if end == real else end) - begin
        deepest = int(blocks[begin:end].max())
        mine = (pair_row >= begin) & (pair_row < end)
        # Padding rows read the first partial: finite, and never looked at.
        parts = np.zeros((deepest, n, heads), dtype=np.int64)
        parts[depth[mine], pair_row[mine] - begin] = place[mine]
        absent = None
        if blocks[begin:end].min() < deepest:
            missing = np.zeros((deepest, n), dtype=bool)
            missing[:, : end - begin] = np.arange(deepest)[:, None] >= blocks[begin:end]
            minus = np.where(missing, np.float32(-np.inf), np.float32(0.0)).repeat(heads, 1)
            absent = torch.from_numpy(minus).to(device)
        where = slice(begin * heads, (begin + n) * heads)
        found.append(Merge(where, torch.from_numpy(parts.reshape(deepest, -1)).to(device), absent))
    return found


def _buckets(
    pair_row: np.ndarray,
    pair_block: np.ndarray,
    visible: np.ndarray,
    size: int,
    heads: int,
    kv_heads: int,
    multiple: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[list[Bucket], np.ndarray]:
    """Jobs by number of rows, and where each pair's partial of each head comes out, [pairs, heads]."""
    group = heads // kv_heads
    order = np.argsort(pair_block, kind="stable")
    block = pair_block[order]
    starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
    users = np.diff(np.r_[starts, len(block)])
    lane = np.arange(len(block)) - np.repeat(starts, users)
    new_job = lane % TILE == 0
    job = new_job.cumsum() - 1
    lane %= TILE
    job_block = block[new_job]
    width = 1 << np.ceil(np.log2(np.bincount(job))).astype(np.int64)
    place = np.empty((len(block), heads), dtype=np.int64)
    kv, within = np.divmod(np.arange(heads), group)
    buckets, offset = [], 0
    for w in np.unique(width):
        chosen = width == w
        number = chosen.cumsum() - 1
        mine = chosen[job]
        j, u, source = number[job[mine]], lane[mine], order[mine]
        n, rows = int(chosen.sum()), -(-int(w) * group // multiple) * multiple
        row = u[:, None] * group + within
        queries = np.zeros((n, kv_heads, rows), dtype=np.int64)
        queries[j[:, None], kv, row] = pair_row[source][:, None] * (heads + kv_heads) + np.arange(heads)
        place[source] = offset + (j[:, None] * kv_heads + kv) * rows + row
        offset += queries.size
        mask = None
        if (visible[source] < size).any():
            limit = np.full((n, int(w) * group), size)
            limit[j[:, None], u[:, None] * group + np.arange(group)] = visible[source][:, None]
            hidden = np.arange(size) >= limit[:, None, :, None]
            mask = torch.from_numpy(np.where(hidden, np.float32(-np.inf), np.float32(0.0))).to(device, dtype)
        ids = job_block[chosen]
        dense = ids[-1] - ids[0] + 1 == n and bool((np.diff(ids) == 1).all())
        where = slice(int(ids[0]), int(ids[-1]) + 1) if dense else torch.from_numpy(ids).to(device)
        buckets.append(Bucket(torch.from_numpy(queries.reshape(-1)).to(device), where, mask, n, rows, int(w) * group))
    return buckets, place
