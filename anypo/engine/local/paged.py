"""The layers of a Llama-like model over paged keys and values: every row is a real token, whatever sequence it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anypo.engine.architecture import Architecture, Layer
from anypo.engine.local.plan import Bucket, Plan
from anypo.engine.local.product import add_product, packed, product


@dataclass(frozen=True)
class Weights:
    """What one layer multiplies with, packed where that pays; None where its modules are called instead."""

    qkv: Tensor | None
    o: Tensor | None
    gate_up: Tensor | None
    down: Tensor | None

    @staticmethod
    def of(layer: Layer) -> Weights:
        plain = type(layer.o) is torch.nn.Linear
        return Weights(
            None if layer.qkv is None else packed(layer.qkv),
            packed(layer.o.weight) if plain else None,  # type: ignore[arg-type]
            None if layer.gate_up is None else packed(layer.gate_up),
            None if layer.gate_up is None else packed(layer.down.weight),  # type: ignore[arg-type]
        )


class PagedModel:
    """Runs plans. Keys and values live in one arena [layers, 2, blocks, kv heads, block size, head dim]."""

    def __init__(self, arch: Architecture, blocks: int, size: int) -> None:
        self.arch, self.size = arch, size
        arch.fuse()
        # Not filled: the operating system commits memory on first touch, and blocks are cleared when first handed out.
        shape = (len(arch.layers), 2, blocks + 1, arch.kv_heads, size, arch.head_dim)
        self._arena = torch.empty(shape, dtype=arch.dtype, device=arch.device)
        self._arena[:, :, 0] = 0.0
        self._cos, self._sin = self._angles(256)
        self._space: dict[str, Tensor] = {}
        self._weights: list[Weights] | None = None

    def renew(self) -> None:
        """The weights changed."""
        self._weights = None

    def clear(self, block: int) -> None:
        """Make a fresh block finite: masked keys weigh 0, and 0 times whatever was there must be 0."""
        self._arena[:, :, block] = 0.0

    def copy(self, source: int, target: int) -> None:
        """Copy one block."""
        self._arena[:, :, target] = self._arena[:, :, source]

    def forward(self, plan: Plan) -> Tensor:
        """Normed hidden states [wanted, hidden] of the plan's wanted rows; writes the rows' keys and values."""
        arch = self.arch
        longest = int(plan.positions.max()) + 1
        if longest > self._cos.shape[0]:
            self._cos, self._sin = self._angles(1 << longest.bit_length())
        cos, sin = self._cos[plan.positions], self._sin[plan.positions]
        x = arch.embedding[plan.tokens]
        if self._weights is None:
            self._weights = [Weights.of(layer) for layer in arch.layers]
        for layer, weights, memory in zip(arch.layers, self._weights, self._arena):
            self._attention(layer, weights, memory, x, cos, sin, plan)
            self._mlp(layer, weights, x)
        return self._norm(x[plan.wanted], arch.norm)

    def _attention(
        self, layer: Layer, weights: Weights, memory: Tensor, x: Tensor, cos: Tensor, sin: Tensor, plan: Plan
    ) -> None:
        """x += o(attention(norm(x))) in place."""
        arch, n = self.arch, x.shape[0]
        h = self._norm(x, layer.input_norm)
        if weights.qkv is not None:
            qkv = product(h, weights.qkv)
            _add_bias(qkv, layer.q, layer.k, layer.v)
        else:
            qkv = torch.cat((layer.q(h), layer.k(h), layer.v(h)), 1)
        split = (arch.heads + arch.kv_heads) * arch.head_dim
        qk = qkv[:, :split].view(n, -1, arch.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = qk[:, : arch.heads], qk[:, arch.heads :]
            qk = torch.cat((self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)), 1)
        qk = _rotate(qk, cos, sin)
        keys, values = memory.view(2, -1, arch.head_dim)
        keys.index_copy_(0, plan.slots, qk[:, arch.heads :].reshape(-1, arch.head_dim))
        values.index_copy_(0, plan.slots, qkv[:, split:].reshape(-1, arch.head_dim))
        queries = (qk[:, : arch.heads] * arch.head_dim**-0.5).view(-1, arch.head_dim)
        mixed = self._attend(queries, memory, plan).view(n, -1)
        if weights.o is not None:
            add_product(x, mixed, weights.o)
            _add_bias(x, layer.o)
        else:
            x += layer.o(mixed)

    def _attend(self, queries: Tensor, memory: Tensor, plan: Plan) -> Tensor:
        """Outputs [R * heads, D] for scaled queries [R * heads, D]: partials by block, merged by their peaks and masses."""
        parts = [self._partial(queries, memory, bucket) for bucket in plan.buckets]
        out, peak, mass = parts[0] if len(parts) == 1 else (torch.cat(columns) for columns in zip(*parts))
        if len(plan.reach) == 1:
            only = plan.parts[0]
            return (out.index_select(0, only) / mass.take(only)[:, None]).to(queries.dtype)
        weight = peak.take(plan.parts)
        if plan.absent is not None:
            weight += plan.absent
        weight = weight.sub_(weight.amax(0)).exp_()
        total = weight * mass.take(plan.parts)
        mixed = out.index_select(0, plan.parts[0]).mul_(weight[0, :, None])
        summed = total[0]
        for i in range(1, len(plan.reach)):
            n = plan.reach[i]
            summed[:n] += total[i, :n]
            mixed[:n].addcmul_(out.index_select(0, plan.parts[i, :n]), weight[i, :n, None])
        return mixed.div_(summed[:, None]).to(queries.dtype)

    def _partial(self, queries: Tensor, memory: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
        """Of one bucket: sums of exp(score - peak) value [J * kv * rows, D], peaks and masses [J * kv * rows]."""
        arch = self.arch
        q = queries.index_select(0, bucket.queries).view(-1, bucket.rows, arch.head_dim)
        if isinstance(bucket.blocks, slice):
            k, v = memory[0][bucket.blocks], memory[1][bucket.blocks]
        else:
            k, v = memory[0].index_select(0, bucket.blocks), memory[1].index_select(0, bucket.blocks)
        out, peak, mass = attend_block(q, k.flatten(0, 1), v.flatten(0, 1), bucket.mask, bucket.real)
        return out.flatten(0, 1), peak.flatten(), mass.flatten()

    def _mlp(self, layer: Layer, weights: Weights, x: Tensor) -> None:
        """x += mlp(norm(x)) in place."""
        arch = self.arch
        h = self._norm(x, layer.post_norm)
        if weights.gate_up is None or weights.down is None:
            x += arch.mlp(layer, h)
            return
        both = product(h, weights.gate_up)
        _add_bias(both, layer.gate, layer.up)
        gate, up = both[:, : arch.intermediate], both[:, arch.intermediate :]
        inner = torch.mul(arch.activation(gate), up, out=self._buffer("inner", x.shape[0], arch.intermediate))
        add_product(x, inner, weights.down)
        _add_bias(x, layer.down)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, (x.shape[-1],), weight, self.arch.eps)
        return self.arch.rms_norm(x, weight)

    def _angles(self, length: int) -> tuple[Tensor, Tensor]:
        """cos [length, 1, D] and sin with the sign of its half, so that rotate(x) = x cos + swap_halves(x) sin."""
        cos, sin = self.arch.rotary(torch.arange(length, device=self.arch.device))
        half = sin.shape[1] // 2
        return cos[:, None], torch.cat((-sin[:, :half], sin[:, half:]), 1)[:, None]

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Scratch kept between steps: fresh large tensors cost more in page faults than the products written into them."""
        space = self._space.get(name)
        if space is None or space.numel() < rows * columns:
            space = torch.empty(rows * columns, dtype=self.arch.dtype, device=self.arch.device)
            self._space[name] = space
        return space[: rows * columns].view(rows, columns)


def attend_block(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, real: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unnormalised attention of scaled queries q [B, rows, D] to keys and values k, v [B, size, D], in float32 or wider.

    Per row, with scores s = q k' + mask: peak = max s [B, rows], mass = sum exp(s - peak) [B, rows] and exp(s - peak) v
    [B, rows, D]. mask [J, 1, real, size], B a multiple of J. Rows from `real` on are padding: finite, and meaningless.
    """
    scores = torch.bmm(q, k.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32))
    weights = scores[:, :real]
    if mask is not None:
        weights.unflatten(0, (mask.shape[0], -1)).add_(mask)
    peak, mass = scores.new_zeros(scores.shape[:2]), scores.new_ones(scores.shape[:2])
    torch.amax(weights, -1, out=peak[:, :real])
    weights.sub_(peak[:, :real, None]).exp_()
    torch.sum(weights, -1, out=mass[:, :real])
    return torch.bmm(scores.to(v.dtype), v).to(scores.dtype), peak, mass


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    swapped = x.unflatten(2, (2, -1)).flip(2).flatten(2)
    return (x * cos).addcmul_(swapped, sin)


def _add_bias(out: Tensor, *modules: Any) -> None:
    """out[:, its columns] += bias for each linear layer, side by side."""
    at = 0
    for module in modules:
        if module.bias is not None:
            out[:, at : at + module.out_features] += module.bias
        at += module.out_features
