"""Divergences between two distributions over the vocabulary, one number per prediction row, without [rows, vocabulary] tensors.

One side is differentiated (p: hidden states and a head), the other is given and fixed (q: other hidden states and the head they
belong to). Both logits are divided by the row's temperature before their log-softmax. With z the tempered logits of p and
m = (1 - beta) p + beta q:

    forward KL    KL(q || p)                                       d / d z = p - q
    reverse KL    KL(p || q)                                       d / d z = p (log p - log q - KL(p || q))
    Jensen-Shannon  beta KL(q || m) + (1 - beta) KL(p || m)        d / d z = (1 - beta) p (log p - log m - KL(p || m))

The last, generalised to 0 < beta < 1, is that of GKD (Agarwal et al. 2024, arXiv 2306.13649) and OPSD (arXiv 2601.18734), which
take forward KL at beta = 0 and reverse KL at beta = 1. It tends to zero at both ends, so these are cases of their own and no limits.

All three are sums over the vocabulary of terms t_a that depend on log p_a alone, with slopes s_a = d t_a / d log p_a:

    forward KL    t = q (log q - log p)                            s = -q
    reverse KL    t = p (log p - log q)                            s = p (log p - log q + 1)
    Jensen-Shannon  t = beta q (log q - log m) + (1 - beta) p (log p - log m)     s = (1 - beta) p (log p - log m)

and d / d z_a = s_a - p_a sum_b s_b. `Capped` bounds the terms, `Leading` takes the sum over q's likeliest tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anypo.engine.training import head as heads
from anypo.engine.training.head import Head, Reading
from anypo.errors import UserError


class Statistic(Protocol):
    """A number per prediction row from the log-probabilities of both sides, `logs` and `given`, each [rows, vocabulary]."""

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        """[rows]."""
        ...

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        """The derivative of sum(d * value) by the logits whose log-softmax is `logs`, [rows, vocabulary]; d is [rows]."""
        ...


class Summed(Statistic, Protocol):
    """A statistic that is a sum over the vocabulary."""

    def terms(self, logs: Tensor, given: Tensor) -> Tensor:
        """What each token adds, [rows, vocabulary]."""
        ...

    def slopes(self, logs: Tensor, given: Tensor) -> Tensor:
        """The derivative of each term by its own log-probability in `logs`, [rows, vocabulary]."""
        ...


@dataclass(frozen=True)
class ForwardKL:
    """KL(given || live)."""

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        return _kl(given, logs)

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        return (logs.exp() - given.exp()) * d[:, None]

    def terms(self, logs: Tensor, given: Tensor) -> Tensor:
        return _charged(given, given - logs)

    def slopes(self, logs: Tensor, given: Tensor) -> Tensor:
        return -given.exp()


@dataclass(frozen=True)
class ReverseKL:
    """KL(live || given)."""

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        return _kl(logs, given)

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        return _pull_kl(logs, given, d)

    def terms(self, logs: Tensor, given: Tensor) -> Tensor:
        return _charged(logs, logs - given)

    def slopes(self, logs: Tensor, given: Tensor) -> Tensor:
        return _charged(logs, logs - given + 1)


@dataclass(frozen=True)
class JensenShannon:
    """beta KL(given || m) + (1 - beta) KL(live || m), m = (1 - beta) live + beta given, 0 < beta < 1."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise UserError(f"the Jensen-Shannon divergence needs 0 < beta < 1, not {self.beta}; see divergence(beta)")

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        mixed = self._mixture(logs, given)
        return self.beta * _kl(given, mixed) + (1 - self.beta) * _kl(logs, mixed)

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        return _pull_kl(logs, self._mixture(logs, given), (1 - self.beta) * d)

    def terms(self, logs: Tensor, given: Tensor) -> Tensor:
        mixed = self._mixture(logs, given)
        return self.beta * _charged(given, given - mixed) + (1 - self.beta) * _charged(logs, logs - mixed)

    def slopes(self, logs: Tensor, given: Tensor) -> Tensor:
        return (1 - self.beta) * _charged(logs, logs - self._mixture(logs, given))

    def _mixture(self, logs: Tensor, given: Tensor) -> Tensor:
        return torch.logaddexp(logs + math.log1p(-self.beta), given + math.log(self.beta))


@dataclass(frozen=True)
class Capped:
    """sum_a min(t_a, cap) of the terms of another statistic. A term above the cap has no gradient; terms are signed, so that the sum
    may be negative."""

    of: Summed
    cap: float

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        return self.of.terms(logs, given).clamp(max=self.cap).sum(-1)

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        slopes = self.of.slopes(logs, given).masked_fill(self.of.terms(logs, given) > self.cap, 0.0)
        return (slopes - logs.exp() * slopes.sum(-1, keepdim=True)) * d[:, None]


@dataclass(frozen=True)
class Leading:
    """Another statistic between both sides restricted to the `k` tokens that are likeliest to the given one, and renormalised there.
    Other tokens have no gradient."""

    of: Statistic
    k: int

    def value(self, logs: Tensor, given: Tensor) -> Tensor:
        return self.of.value(*self._sides(logs, given)[1:])

    def pull(self, logs: Tensor, given: Tensor, d: Tensor) -> Tensor:
        chosen, ours, theirs = self._sides(logs, given)
        return torch.zeros_like(logs).scatter_(-1, chosen, self.of.pull(ours, theirs, d))

    def _sides(self, logs: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = given.topk(min(self.k, given.shape[-1]), -1).indices
        return chosen, logs.gather(-1, chosen).log_softmax(-1), given.gather(-1, chosen).log_softmax(-1)


def divergence(beta: float) -> Summed:
    """The family of GKD and OPSD: forward KL at 0, reverse KL at 1, Jensen-Shannon between."""
    return ForwardKL() if beta == 0 else ReverseKL() if beta == 1 else JensenShannon(beta)


def compare(
    statistic: Statistic,
    hidden: Tensor,
    head: Head,
    given: Tensor,
    given_head: Head,
    temperature: Tensor,
    chunk: int | None = None,
) -> Tensor:
    """`statistic` [N] between `hidden` [N, d] under `head` and `given` [N, e] under `given_head`, at `temperature` [N], connected to
    hidden states, weight and bias of the first side only. At most `chunk` rows of logits exist at one time."""
    sizes = [
        states.shape[1] if h.weight is None else len(h.weight) for states, h in ((hidden, head), (given, given_head))
    ]
    if sizes[0] != sizes[1]:
        raise UserError(f"a divergence needs one vocabulary on both sides, not {sizes[0]} and {sizes[1]} tokens")
    if len(hidden) != len(given):
        raise UserError(f"a divergence needs as many rows on both sides, not {len(hidden)} and {len(given)}")
    wide = torch.promote_types(hidden.dtype, torch.float32)
    chunk = chunk or max(1, heads.CHUNK_BYTES // (sizes[0] * wide.itemsize))
    none = torch.empty(0, dtype=torch.long, device=hidden.device)
    fixed = (given.detach().to(wide), given_head, Reading(none, none, temperature), statistic, chunk)
    found: Tensor = _Compare.apply(hidden, head.weight, head.bias, head.dtype, fixed)
    return found


class _Compare(torch.autograd.Function):
    """Forward keeps the inputs only; backward computes the logits again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: Any, fixed: Any) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.dtype, ctx.fixed = dtype, fixed
        out = torch.empty(len(hidden), dtype=fixed[0].dtype, device=hidden.device)
        for span, logs, given in _sides(hidden, Head(weight, bias, dtype), fixed):
            out[span] = fixed[3].value(logs, given)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias = ctx.saved_tensors
        wide, statistic = ctx.fixed[0].dtype, ctx.fixed[3]
        head = Head(weight, bias, ctx.dtype)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight, d_bias = (
            torch.zeros_like(parameter, dtype=wide) if parameter is not None and needed else None
            for parameter, needed in zip((weight, bias), ctx.needs_input_grad[1:3])
        )
        operand = head.operand()
        d = d.to(wide) / ctx.fixed[2].temperature.to(wide)
        for span, logs, given in _sides(hidden, head, ctx.fixed):
            d_z = statistic.pull(logs, given, d[span])
            if d_bias is not None:
                d_bias += d_z.sum(0)
            if operand is not None:
                d_z = d_z.to(operand.dtype)
            if d_weight is not None:
                d_weight += d_z.t() @ hidden[span].to(d_z.dtype)
            if d_hidden is not None:
                d_hidden[span] = (d_z if operand is None else d_z @ operand).to(hidden.dtype)
        return d_hidden, d_weight, d_bias, None, None


def _sides(hidden: Tensor, head: Head, fixed: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Row spans with the log-probabilities of both sides."""
    given, given_head, reading, _, chunk = fixed
    for live, other in zip(
        heads.parts(hidden, head.operand(), head.bias, reading, False, chunk),
        heads.parts(given, given_head.operand(), given_head.bias, reading, False, chunk),
        strict=True,
    ):
        yield live.span, live.logs, other.logs


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) [rows] of log-probabilities; tokens that p excludes count nothing."""
    return _charged(p, p - q).sum(-1)


def _pull_kl(p: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """d * p (log p - log q - KL(p || q)): the derivative by p's logits with q fixed, and with q the mixture that p is part of."""
    return _charged(p, p - q - _kl(p, q)[:, None]) * d[:, None]


def _charged(p: Tensor, by: Tensor) -> Tensor:
    """exp(p) * by, zero where exp(p) is."""
    weight = p.exp()
    return (weight * by).masked_fill(weight == 0, 0.0)


__all__ = [
    "Capped", "ForwardKL", "JensenShannon", "Leading", "ReverseKL", "Statistic", "Summed", "compare", "divergence",
]  # fmt: skip
