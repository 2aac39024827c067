"""The layers of a Llama-like model over paged keys and values: every row is a real token, whatever sequence it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anypo.engine.architecture import Architecture, Layer
from anypo.engine.device import together
from anypo.engine.local.model.attention import Attention, Memory
from anypo.engine.local.model.plan import Plan
from anypo.engine.product import add_product, packed, product


@dataclass(frozen=True)
class Weights:
    """What one layer multiplies with, packed where that pays; None where its modules are called instead. Biases only where they
    exist; the weights of the norms as `_norm` wants them."""

    qkv: Tensor | None
    o: Tensor | None
    gate_up: Tensor | None
    down: Tensor | None
    biases: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
    input_norm: Tensor
    post_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None

    @staticmethod
    def of(layer: Layer) -> Weights:
        plain = type(layer.o) is torch.nn.Linear
        return Weights(
            None if layer.qkv is None else packed(layer.qkv),
            packed(layer.o.weight) if plain else None,  # type: ignore[arg-type]
            None if layer.gate_up is None else packed(layer.gate_up),
            None if layer.gate_up is None else packed(layer.down.weight),  # type: ignore[arg-type]
            (
                _bias(layer.q, layer.k, layer.v),
                _bias(layer.o),
                _bias(layer.gate, layer.up),
                _bias(layer.down),
            ),
            _scaled(layer.input_norm),
            _scaled(layer.post_norm),
            None if layer.q_norm is None else _scaled(layer.q_norm),
            None if layer.k_norm is None else _scaled(layer.k_norm),
        )


Attends = Callable[[Tensor, Memory], Tensor]
"""See `Attention.__call__`."""


class PagedModel:
    """Runs plans. Keys and values live in one arena [layers, 2, blocks, kv heads, block size, head dim]."""

    def __init__(self, arch: Architecture, blocks: int, size: int) -> None:
        self.arch, self.size = arch, size
        arch.fuse()
        # Not filled: the operating system commits memory on first touch, and blocks are cleared when first handed out.
        shape = (len(arch.layers), 2, blocks + 1, arch.kv_heads, size, arch.head_dim)
        self._arena = torch.empty(shape, dtype=arch.dtype, device=arch.device)
        self._arena[:, :, 0] = 0.0
        self._memories = [Memory.of(arena) for arena in self._arena]
        self._cos, self._sin = self._angles(256)
        self._space: dict[str, Tensor] = {}
        # sqrt(n eps) for `_norm`, and what `_rotations` scales by: the queries' heads, not the keys'.
        self._floors = {n: self._cos.new_tensor((n * arch.eps) ** 0.5) for n in (arch.hidden, arch.head_dim)}
        self._scale = self._cos.new_ones(arch.heads + arch.kv_heads, 1)
        self._scale[: arch.heads] = arch.head_dim**-0.5
        self.made = 0
        self._weights: list[Weights] | None = None
        self._final_norm = arch.norm.detach()

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
        self.prepare(int(plan.positions.max()) + 1)
        attention = Attention(plan, arch.kv_heads, self.size, arch.head_dim, arch.dtype)
        return self.layers(plan.tokens, plan.positions, plan.slots, attention, plan.wanted)

    def prepare(self, length: int) -> None:
        """Make ready for positions below `length` and for the present weights; counted in `made` when anything had to be made."""
        if length > self._cos.shape[0]:
            self._cos, self._sin = self._angles(1 << length.bit_length())
            self.made += 1
        if self._weights is None:
            self._weights = [Weights.of(layer) for layer in self.arch.layers]
            self._final_norm = _scaled(self.arch.norm)
            self.made += 1

    def layers(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, attention: Attends, wanted: Tensor | None = None
    ) -> Tensor:
        """Normed hidden states of the wanted rows (default: all) for tokens at positions [R], after `prepare`; writes keys and
        values into slots [R * kv]."""
        assert self._weights is not None
        together("a step of the sampler", self.arch.embedding, tokens, positions, slots, wanted)
        cos, sin = self._rotations(positions)
        x = self.arch.embedding[tokens]
        for layer, weights, memory in zip(self.arch.layers, self._weights, self._memories):
            self._attention(layer, weights, memory, x, cos, sin, slots, attention)
            self._mlp(layer, weights, x)
        return self._norm(x if wanted is None else x[wanted], self._final_norm)

    def _attention(
        self,
        layer: Layer,
        weights: Weights,
        memory: Memory,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        attention: Attends,
    ) -> None:
        """x += o(attention(norm(x))) in place."""
        arch, n = self.arch, x.shape[0]
        h = self._norm(x, weights.input_norm)
        if weights.qkv is not None:
            qkv = product(h, weights.qkv)
            _add(qkv, weights.biases[0])
        else:
            qkv = torch.cat((layer.q(h), layer.k(h), layer.v(h)), 1)
        split = (arch.heads + arch.kv_heads) * arch.head_dim
        qk = qkv[:, :split].view(n, -1, arch.head_dim)
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = qk[:, : arch.heads], qk[:, arch.heads :]
            qk = torch.cat((self._norm(q, weights.q_norm), self._norm(k, weights.k_norm)), 1)
        qk = _rotate(qk, cos, sin)
        memory.key_rows.index_copy_(0, slots, qk[:, arch.heads :].reshape(-1, arch.head_dim))
        memory.value_rows.index_copy_(0, slots, qkv[:, split:].reshape(-1, arch.head_dim))
        mixed = attention(qk.view(-1, arch.head_dim), memory).view(n, -1)
        if weights.o is not None:
            add_product(x, mixed, weights.o)
            _add(x, weights.biases[1])
        else:
            x += layer.o(mixed)

    def _mlp(self, layer: Layer, weights: Weights, x: Tensor) -> None:
        """x += mlp(norm(x)) in place."""
        arch = self.arch
        h = self._norm(x, weights.post_norm)
        if weights.gate_up is None or weights.down is None:
            x += arch.mlp(layer, h)
            return
        both = product(h, weights.gate_up)
        _add(both, weights.biases[2])
        gate, up = both[:, : arch.intermediate], both[:, arch.intermediate :]
        space = self._buffer("inner", x.shape[0], arch.intermediate) if x.device.type == "cpu" else None
        inner = torch.mul(arch.activation(gate), up, out=space)
        add_product(x, inner, weights.down)
        _add(x, weights.biases[3])

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The root-mean-square norm; in float32 as x / sqrt(|x|^2 + n eps) times the `_scaled` weight, in four operations."""
        if x.dtype != torch.float32:
            return self.arch.rms_norm(x, weight)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.div(x, length.hypot_(self._floors[x.shape[-1]])).mul_(weight)

    def _rotations(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos [R, heads + kv heads, D] and sin [R, heads + kv heads, D / 2], which also scale the queries."""
        return self._cos[positions] * self._scale, self._sin[positions] * self._scale

    def _angles(self, length: int) -> tuple[Tensor, Tensor]:
        """cos [length, 1, D], whose halves are the same, and sin [length, 1, D / 2]."""
        cos, sin = self.arch.rotary(torch.arange(length, device=self.arch.device))
        return cos[:, None], sin[:, None, : sin.shape[1] // 2].contiguous()

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Scratch kept between steps: fresh large tensors cost more in page faults than the products written into them."""
        space = self._space.get(name)
        if space is None or space.numel() < rows * columns:
            space = torch.empty(rows * columns, dtype=self.arch.dtype, device=self.arch.device)
            self._space[name] = space
        return space[: rows * columns].view(rows, columns)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = sin.shape[2]
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


def _scaled(weight: Tensor) -> Tensor:
    """weight * sqrt(n) for `_norm` in float32; other precisions keep theirs."""
    return weight.detach() * weight.shape[0] ** 0.5 if weight.dtype == torch.float32 else weight.detach()


def _bias(*modules: Any) -> Tensor | None:
    """The biases of linear layers side by side, zero where one has none; None when none has any."""
    if all(module.bias is None for module in modules):
        return None
    zero = next(module.bias for module in modules if module.bias is not None)
    columns = [zero.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules]
    return torch.cat(columns)


def _add(x: Tensor, bias: Tensor | None) -> None:
    if bias is not None:
        x += bias
