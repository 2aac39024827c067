"""Attention of one step's rows to their blocks: partial softmax by block, merged by peaks and masses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anypo.engine.local.model.plan import Bucket, Merge, Plan


@dataclass(frozen=True)
class Memory:
    """Keys and values of one layer, [blocks, kv heads, size, D]; as rows [blocks * kv heads * size, D] to write into."""

    keys: Tensor
    values: Tensor
    key_rows: Tensor
    value_rows: Tensor

    @staticmethod
    def of(arena: Tensor) -> Memory:
        """Views of one layer's arena [2, blocks, kv heads, size, D]."""
        rows = arena.view(2, -1, arena.shape[-1])
        return Memory(arena[0], arena[1], rows[0], rows[1])


class Attention:
    """Buffers and views of one plan, made once and used by every layer: a decoding step has so few numbers that making them
    anew costs more than the arithmetic."""

    def __init__(self, plan: Plan, kv_heads: int, size: int, dim: int, dtype: torch.dtype) -> None:
        device, wide = plan.tokens.device, torch.promote_types(dtype, torch.float32)
        total = sum(len(bucket.queries) for bucket in plan.buckets)
        self._out = torch.empty(total, dim, dtype=wide, device=device)
        self._peak = torch.zeros(total, dtype=wide, device=device)
        self._mass = torch.ones(total, dtype=wide, device=device)
        self._jobs, end = [], 0
        for bucket in plan.buckets:
            begin, end = end, end + len(bucket.queries)
            part = slice(begin, end)
            self._jobs.append(_Job(bucket, kv_heads, size, dtype, self._out[part], self._peak[part], self._mass[part]))
        self._mixed = torch.empty(plan.merges[-1].heads.stop, dim, dtype=wide, device=device)
        self._merges = [_Merging(merge, self._mixed[merge.heads]) for merge in plan.merges]

    def __call__(self, queries: Tensor, memory: Memory) -> Tensor:
        """Outputs [R * heads, D] for rows of scaled queries, each followed by its keys, [R * (heads + kv heads), D]; the result
        may be overwritten by the next call."""
        for job in self._jobs:
            job.run(queries, memory)
        for merging in self._merges:
            merging.run(self._out, self._peak, self._mass)
        return self._mixed.to(queries.dtype)


class _Merging:
    """The partials of some rows, weighed by their peaks, over their masses."""

    def __init__(self, merge: Merge, mixed: Tensor) -> None:
        self._parts, self._absent, self._mixed = merge.parts, merge.absent, mixed
        self._flat = merge.parts.flatten()
        self._picked = mixed.new_empty(len(self._flat), mixed.shape[1])
        self._by_depth = self._picked.view(*merge.parts.shape, -1)

    def run(self, out: Tensor, peak: Tensor, mass: Tensor) -> None:
        weight = peak.take(self._parts)
        if self._absent is not None:
            weight += self._absent
        weight.sub_(weight.amax(0)).exp_()
        share = mass.take(self._parts).mul_(weight).cumsum(0)[-1]  # one by one, in every column alike
        torch.index_select(out, 0, self._flat, out=self._picked)
        torch.sum(self._by_depth.mul_(weight[:, :, None]), 0, out=self._mixed)
        self._mixed.div_(share[:, None])


class _Job:
    """One bucket: sums of exp(score - peak) value into out [J * kv * rows, D], peaks and masses into [J * kv * rows]."""

    def __init__(
        self, bucket: Bucket, kv_heads: int, size: int, dtype: torch.dtype, out: Tensor, peak: Tensor, mass: Tensor
    ) -> None:
        batch, rows, dim = bucket.jobs * kv_heads, bucket.rows, out.shape[1]
        self._queries, self._blocks, self._mask = bucket.queries, bucket.blocks, bucket.mask
        self._q = torch.empty(batch * rows, dim, dtype=dtype, device=out.device)
        self._q_jobs = self._q.view(batch, rows, dim)
        self._scores = torch.empty(batch, rows, size, dtype=peak.dtype, device=out.device)
        self._real = self._scores[:, : bucket.real]
        self._masked = self._real.unflatten(0, (bucket.jobs, kv_heads))
        # Padding rows keep peak 0 and mass 1: finite, and never looked at.
        self._peak, self._mass = peak.view(batch, rows)[:, : bucket.real], mass.view(batch, rows)[:, : bucket.real]
        self._below = self._peak[:, :, None]
        self._out = out.view(batch, rows, dim)

    def run(self, queries: Tensor, memory: Memory) -> None:
        torch.index_select(queries, 0, self._queries, out=self._q)
        k, v = self._chosen(memory.keys), self._chosen(memory.values)
        _bmm(self._q_jobs, k.transpose(1, 2), self._scores)
        if self._mask is not None:
            self._masked.add_(self._mask)
        torch.amax(self._real, -1, out=self._peak)
        self._real.sub_(self._below).exp_()
        torch.sum(self._real, -1, out=self._mass)
        _bmm(self._scores, v, self._out)

    def _chosen(self, blocks: Tensor) -> Tensor:
        """Blocks of this bucket, [J * kv, size, D]."""
        chosen = blocks[self._blocks] if isinstance(self._blocks, slice) else blocks.index_select(0, self._blocks)
        return chosen.flatten(0, 1)


def _bmm(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b by batch, multiplied in b's precision."""
    if b.dtype == out.dtype:
        torch.bmm(a, b, out=out)
    else:
        out.copy_(torch.bmm(a.to(b.dtype), b))
