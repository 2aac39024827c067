"""Decoding steps of fixed shape, which a GPU replays as one graph instead of a thousand launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anypo.engine.local.model.attention import Memory
from anypo.engine.local.model.paged import PagedModel
from anypo.engine.local.model.plan import Feed

LEAST_ROWS = 8


@dataclass
class _Shape:
    """Inputs of one shape: tokens, positions [R], slots [R * kv], table [R, P] of blocks; the output [R, hidden] and, on a GPU, the
    graph that computes it from them."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    table: Tensor
    out: Tensor | None = None
    graph: torch.cuda.CUDAGraph | None = None


class TableAttention:
    """Every row attends to the blocks in its row of `table` up to its position, through torch's fused attention."""

    def __init__(self, table: Tensor, positions: Tensor, heads: int, size: int) -> None:
        self._table, self._heads = table, heads
        place = torch.arange(table.shape[1] * size, device=table.device)
        self._mask = (place <= positions[:, None])[:, None, None]

    def __call__(self, queries: Tensor, memory: Memory) -> Tensor:
        """As `Attention`: [R * heads, D] for rows of scaled queries, each followed by its keys."""
        rows, dim = self._table.shape[0], queries.shape[1]
        q = queries.view(rows, -1, 1, dim)[:, : self._heads]
        k, v = (x[self._table].transpose(1, 2).flatten(2, 3) for x in (memory.keys, memory.values))
        return F.scaled_dot_product_attention(q, k, v, self._mask, scale=1.0, enable_gqa=True).reshape(-1, dim)


class CapturedDecode:
    """Steps in which every sequence adds one token. Rows and blocks per row are rounded up to powers of two, and every such shape
    is captured once for the tensors that the model has made ready; without a GPU the same computation simply runs."""

    def __init__(self, model: PagedModel) -> None:
        self._model = model
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._made = 0

    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        """Normed hidden states [len(feeds), hidden]; valid until the next step. Every feed has one token."""
        model, arch = self._model, self._model.arch
        model.prepare(max(feed.start for feed in feeds) + 1)
        if model.made != self._made:  # by whatever step: the graphs read tensors that are no more
            self._shapes.clear()
            self._made = model.made
        rows = max(LEAST_ROWS, _power(len(feeds)))
        width = _power(max(len(feed.blocks) for feed in feeds))
        shape = self._shapes.get((rows, width))
        if shape is None:
            shape = self._shapes[rows, width] = self._empty(rows, width)
        self._fill(shape, feeds)
        if arch.device.type != "cuda":
            return self._run(shape)[: len(feeds)]
        if shape.graph is None:
            self._capture(shape)
        assert shape.graph is not None and shape.out is not None
        shape.graph.replay()
        return shape.out[: len(feeds)]

    def _empty(self, rows: int, width: int) -> _Shape:
        arch = self._model.arch

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=arch.device)

        return _Shape(zeros(rows), zeros(rows), zeros(rows * arch.kv_heads), zeros(rows, width))

    def _fill(self, shape: _Shape, feeds: Sequence[Feed]) -> None:
        """Padding rows write into block 0, which nobody owns, and see its first key."""
        rows, width = shape.table.shape
        size, kv = self._model.size, self._model.arch.kv_heads
        tokens, positions = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        table = np.zeros((rows, width), dtype=np.int64)
        for i, feed in enumerate(feeds):
            tokens[i], positions[i] = feed.tokens[0], feed.start
            table[i, : len(feed.blocks)] = feed.blocks
        block = table[np.arange(rows), positions // size]
        slots = ((block * kv)[:, None] + np.arange(kv)) * size + (positions % size)[:, None]
        for target, source in (
            (shape.tokens, tokens),
            (shape.positions, positions),
            (shape.slots, slots.reshape(-1)),
            (shape.table, table),
        ):
            target.copy_(torch.from_numpy(source))

    def _run(self, shape: _Shape) -> Tensor:
        arch = self._model.arch
        attention = TableAttention(shape.table, shape.positions, arch.heads, self._model.size)
        return self._model.layers(shape.tokens, shape.positions, shape.slots, attention)

    def _capture(self, shape: _Shape) -> None:
        """Two runs aside first, as capturing needs libraries and buffers to be there; they write what the replay writes again."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._run(shape)
        torch.cuda.current_stream().wait_stream(aside)
        shape.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(shape.graph):
            shape.out = self._run(shape)


def _power(n: int) -> int:
    """The least power of two of at least n."""
    return 1 << (n - 1).bit_length()
