"""Decoder layers over packed tokens, with backward passes that keep little.

`_NormProjections` and `_GatedMLP` fuse a root-mean-square norm with what follows it. They save the residual stream (which
is kept anyway) and the gate and up projections; normed inputs and activations are recomputed in the backward pass, which
costs elementwise work only. With y = w x r, r = (mean(x^2) + eps)^(-1/2) and upstream gradient g:

    d w = sum over tokens of g x r          d x = r (w g - x r mean(w g x r))

Norms are computed in float32 or wider; products run in the dtype of autocast where it is on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from anypo.engine.architecture import Architecture, Layer
from anypo.engine.product import add_product, product
from anypo.engine.training.attention import Plan, attend


def decoder_layer(
    arch: Architecture, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, plan: Plan, keep: Tensor | None
) -> Tensor:
    """One layer on the residual stream x [N, hidden] of a packed tree; with `keep` [M] its output for those tokens, [M, hidden].

    Layers with adapters call their modules, plain ones take the fused functions.
    """
    fused = arch.activation is F.silu and all(type(projection) is nn.Linear for projection in layer.projections)
    if fused:
        q, k, v = _NormProjections.apply(x, layer.input_norm, arch.eps, *_parameters(layer.q, layer.k, layer.v))
    else:
        h = rms_norm(x, layer.input_norm, arch.eps)
        q, k, v = layer.q(h), layer.k(h), layer.v(h)
    q, k, v = (t.view(len(x), -1, arch.head_dim) for t in (q, k, v))
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = rms_norm(q, layer.q_norm, arch.eps), rms_norm(k, layer.k_norm, arch.eps)
    attended = attend(_Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin), v, plan)
    if keep is not None:
        attended, x = attended[keep], x[keep]
    x = x + layer.o(attended)
    if fused:
        return _GatedMLP.apply(x, layer.post_norm, arch.eps, *_parameters(layer.gate, layer.up, layer.down))
    return x + arch.mlp(layer, rms_norm(x, layer.post_norm, arch.eps))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """w x / sqrt(mean(x^2) + eps) over the last dimension."""
    return _RMSNorm.apply(x, weight, eps)


def _parameters(*modules: nn.Module) -> list[Tensor | None]:
    """Weights, then biases."""
    return [getattr(m, name) for name in ("weight", "bias") for m in modules]


def _scale(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x in float32 or wider, and 1 / its root mean square."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide, torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide, r = _scale(x, eps)
    return (wide * r).to(x.dtype) * weight


def _norm_backward(g: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients by x and weight."""
    wide, r = _scale(x, eps)
    xr = wide * r
    g = g.to(xr.dtype)
    d_weight = (g * xr).flatten(0, -2).sum(0)
    g = g * weight
    d_x = g.sub_(xr.mul_((g * xr).mean(-1, keepdim=True))).mul_(r)
    return d_x.to(x.dtype), d_weight.to(weight.dtype)


def _weight_gradients(
    g: tuple[Tensor, ...], inputs: Tensor, needed: tuple[bool, ...], biases: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Gradients of linear layers with a common input, weights then biases, for output gradients `g`."""
    n = len(g)
    weights = [d.t() @ inputs.to(d.dtype) if needed[i] else None for i, d in enumerate(g)]
    return weights + [d.sum(0) if b is not None and needed[n + i] else None for i, (d, b) in enumerate(zip(g, biases))]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _normed(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        return (*_norm_backward(g, x, weight, ctx.eps), None)


class _NormProjections(torch.autograd.Function):
    """(W_i norm(x) + b_i) for three linear layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, norm, *parameters)
        ctx.eps = eps
        h = _normed(x, norm, eps)
        return tuple(_linear(h, w, b) for w, b in zip(parameters[:3], parameters[3:]) if w is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        x, norm, *parameters = ctx.saved_tensors
        d_parameters = _weight_gradients(g, _normed(x, norm, ctx.eps), ctx.needs_input_grad[3:], parameters[3:])
        d_x, d_norm = _norm_backward(_back(g, parameters[:3]), x, norm, ctx.eps)
        return (d_x, d_norm, None, *d_parameters)


class _GatedMLP(torch.autograd.Function):
    """x + W_down (silu(W_gate h + b) * (W_up h + b)) + b with h = norm(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, *parameters: Tensor | None) -> Tensor:
        w_gate, w_up, w_down, b_gate, b_up, b_down = parameters
        assert w_gate is not None and w_up is not None and w_down is not None
        h = _normed(x, norm, eps)
        gate, up = _linear(h, w_gate, b_gate), _linear(h, w_up, b_up)
        ctx.save_for_backward(x, norm, gate, up, *parameters)
        ctx.eps = eps
        return x + _linear(F.silu(gate).mul_(up), w_down, b_down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, norm, gate, up, *parameters = ctx.saved_tensors
        w_gate, w_up, w_down, b_gate, b_up, b_down = parameters
        needs = ctx.needs_input_grad[3:]
        narrow = g.to(gate.dtype)
        active = F.silu(gate)
        d_product = _back((narrow,), [w_down])
        d_down, d_b_down = _weight_gradients((narrow,), active * up, (needs[2], needs[5]), (b_down,))
        d_up = active.mul_(d_product)
        d_gate = torch.ops.aten.silu_backward(d_product.mul_(up), gate)
        both = (d_gate, d_up)
        d_both = _weight_gradients(both, _normed(x, norm, ctx.eps), (*needs[:2], *needs[3:5]), (b_gate, b_up))
        d_x, d_norm = _norm_backward(_back(both, [w_gate, w_up]), x, norm, ctx.eps)
        return (d_x + g, d_norm, None, *d_both[:2], d_down, *d_both[2:], d_b_down)


class _Rotate(torch.autograd.Function):
    """Rotary embedding of x [N, heads, D] by cos and sin [N, D], each of two equal halves; its inverse is its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(g, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    c, s = cos[:, None, :half].to(x.dtype), sin[:, None, :half].to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.mul(first, c, out=out[..., :half]).addcmul_(second, s, value=-1)
    torch.mul(second, c, out=out[..., half:]).addcmul_(first, s)
    return out


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b; in autocast's dtype where it is on."""
    if x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    out = product(x, weight)
    return out if bias is None else out.add_(bias)


def _back(g: tuple[Tensor, ...], weights: list[Tensor]) -> Tensor:
    """Sum over i of g_i W_i: the gradient by the common input of linear layers."""
    total = product(g[0], weights[0].to(g[0].dtype).t())
    for d, w in zip(g[1:], weights[1:]):
        add_product(total, d, w.to(d.dtype).t())
    return total
