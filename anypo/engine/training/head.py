"""The output head: log-probabilities and entropies without a [tokens, vocabulary] tensor ever existing.

For a prediction row u with hidden state h_u and temperature T_u, z_u = (W h_u + b) / T_u and p_u = softmax(z_u):

    logp(u, a) = z_u[a] - logsumexp(z_u)                     d logp(u, a) / d z_u = onehot(a) - p_u
    entropy(u) = - sum_a p_u[a] log p_u[a]                   d entropy(u) / d z_u = - p_u (log p_u + entropy(u))

A target that was drawn from a set S of tokens (`Within`) is renormalised over it:

    logp(u, a) = z_u[a] - logsumexp over S of z_u            d logp(u, a) / d z_u = onehot(a) - [in S] p_u / sum over S of p_u

Several decisions may be read off one row (a group's first tokens all follow the same prompt), so targets come with the row
they belong to. Work goes through a few rows at a time; the logits of only these exist. The gradient recomputes them, which
lets `gradients` serve both as the backward pass of `Statistics` and, where the upstream coefficients are known beforehand,
as forward and backward in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anypo.engine.device import together

CHUNK_BYTES = 1 << 27
"""Most bytes of logits that exist at one time (twice: the logits and their log-softmax)."""


@dataclass(frozen=True)
class Head:
    """What turns states into logits: weight [vocabulary, hidden], bias [vocabulary] or None, and the dtype of the products
    (None: the weight's). Without a weight the states are the logits."""

    weight: Tensor | None
    bias: Tensor | None = None
    dtype: torch.dtype | None = None

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None = None) -> Head:
        """With the dtype that autocast asks for at this moment."""
        device = weight.device.type
        return Head(weight, bias, torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)

    def operand(self) -> Tensor | None:
        """The weight in the dtype of the products."""
        return None if self.weight is None else self.weight.detach().to(self.dtype or self.weight.dtype)


@dataclass(frozen=True)
class Within:
    """Sets of tokens that targets are renormalised over: ids [K], and the target each is there for, owner [K] (ascending). A target
    that is named here is among its own ids."""

    ids: Tensor
    owner: Tensor


@dataclass(frozen=True)
class Reading:
    """Which numbers are read: targets [N] (token ids) with the prediction row of each, rows [N] (ascending, 0..U-1), and the
    temperature of each prediction row, [U]. within: targets with a vocabulary of their own (None: all have the whole)."""

    targets: Tensor
    rows: Tensor
    temperature: Tensor
    within: Within | None = None


@dataclass(frozen=True)
class Columns:
    """``logp`` [N] per target and ``entropy`` [U] per prediction row (None where not asked for), float32 or wider."""

    logp: Tensor
    entropy: Tensor | None


@torch.no_grad()
def statistics(hidden: Tensor, head: Head, reading: Reading, entropy: bool, chunk: int | None = None) -> Columns:
    """Columns of `reading` for hidden states [U, hidden], without gradient."""
    out = _empty(hidden, reading, entropy)
    for part in parts(hidden, head.operand(), head.bias, reading, entropy, chunk):
        out.logp[part.members] = part.logp()[0]
        if out.entropy is not None:
            out.entropy[part.span] = part.entropy(part.probabilities())
    return out


@torch.no_grad()
def gradients(
    hidden: Tensor,
    head: Head,
    reading: Reading,
    d_logp: Tensor,
    d_entropy: Tensor | None,
    needs: Sequence[bool] = (True, True, True),
    chunk: int | None = None,
) -> tuple[Columns, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """The columns, and the gradient of sum(d_logp * logp) + sum(d_entropy * entropy) by (hidden, weight, bias).

    d_logp is [N], d_entropy [U] or None; `needs` says which gradients are wanted. The weight's is accumulated in float32 or
    wider. Logits are computed once.
    """
    out = _empty(hidden, reading, d_entropy is not None)
    wide, heat = out.logp.dtype, reading.temperature.to(out.logp.dtype)
    d_hidden = torch.empty_like(hidden) if needs[0] else None
    d_weight, d_bias = (
        torch.zeros_like(parameter, dtype=wide) if parameter is not None and needed else None
        for parameter, needed in zip((head.weight, head.bias), needs[1:])
    )
    weight = head.operand()
    d_logp = d_logp.to(wide) / heat[reading.rows]
    whole = d_logp if reading.within is None else d_logp.index_fill(0, reading.within.owner, 0.0)
    per_row = torch.zeros_like(heat).index_add_(0, reading.rows, whole)
    for part in parts(hidden, weight, head.bias, reading, d_entropy is not None, chunk):
        out.logp[part.members], shares = part.logp()
        p = part.probabilities()
        pull = per_row[part.span, None]  # d_z = onehot d_logp - p (sum of d_logp + d_entropy (log p + entropy))
        if d_entropy is not None and out.entropy is not None:
            out.entropy[part.span] = part.entropy(p)
            factor = (d_entropy.to(wide) / heat)[part.span, None]
            pull = part.logs.add_(out.entropy[part.span, None]).mul_(factor).add_(pull)
        d_z = p.mul_(pull).neg_()
        d_z.view(-1).index_add_(0, part.flat, d_logp[part.members])
        if part.within is not None and shares is not None:
            d_z.view(-1).index_add_(0, part.within.ids, -d_logp[part.members][part.within.owner] * shares)
        if d_bias is not None:
            d_bias += d_z.sum(0)
        if weight is None:
            if d_hidden is not None:
                d_hidden[part.span] = d_z
            continue
        inputs, d_z = hidden[part.span].to(weight.dtype), d_z.to(weight.dtype)
        if d_hidden is not None:
            d_hidden[part.span] = d_z @ weight
        if d_weight is not None and d_weight.dtype == d_z.dtype:
            d_weight.addmm_(d_z.t(), inputs)
        elif d_weight is not None:
            d_weight += d_z.t() @ inputs
    return out, (d_hidden, d_weight, d_bias)


class _Statistics(torch.autograd.Function):
    """`statistics` with `gradients` behind it; saves its inputs only."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype | None,
        reading: Reading,
        entropy: bool,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.reading, ctx.chunk = dtype, reading, chunk
        out = statistics(hidden, Head(weight, bias, dtype), reading, entropy, chunk)
        return out.logp, out.entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_logp: Tensor | None, d_entropy: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias = ctx.saved_tensors
        if d_logp is None:
            d_logp = torch.zeros(len(ctx.reading.targets), device=hidden.device)
        needs = ctx.needs_input_grad[:3]
        _, found = gradients(hidden, Head(weight, bias, ctx.dtype), ctx.reading, d_logp, d_entropy, needs, ctx.chunk)
        return (*found, None, None, None, None)


def differentiable(hidden: Tensor, head: Head, reading: Reading, entropy: bool, chunk: int | None = None) -> Columns:
    """`statistics`, connected to hidden states, weight and bias."""
    return Columns(*_Statistics.apply(hidden, head.weight, head.bias, head.dtype, reading, entropy, chunk))


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: Tensor | float = 1.0,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of targets [N] and entropy, both [N] and differentiable, for hidden states [N, hidden].

    The plain case of one target per row; temperature is a number or [N].
    """
    n = len(hidden)
    heat = torch.as_tensor(temperature, device=hidden.device, dtype=_wide(hidden.dtype)).expand(n)
    reading = Reading(targets, torch.arange(n, device=hidden.device), heat)
    out = differentiable(hidden, Head.of(weight, bias), reading, True, chunk)
    assert out.entropy is not None
    return out.logp, out.entropy


@dataclass(frozen=True)
class Part:
    """Some prediction rows: their slice `span`, the slice `members` of targets on them, where these stand in the flattened
    logits (`flat`), the log-softmax `logs` [rows, vocabulary], and two buffers of the same size that may be overwritten. within:
    the sets of these targets, as places in the flattened logits and numbers among the members (None: there are none)."""

    span: slice
    members: slice
    flat: Tensor
    logs: Tensor
    buffer: Tensor
    spare: Tensor | None
    within: Within | None = None

    def logp(self) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the members, [M], and what each entry of `within` has of its set's mass, [K]."""
        flat = self.logs.view(-1)
        logp = flat[self.flat]
        if self.within is None:
            return logp, None
        inside, owner = flat[self.within.ids], self.within.owner
        peak = torch.full_like(logp, -torch.inf).scatter_reduce(0, owner, inside, "amax")
        mass = torch.zeros_like(logp).index_add_(0, owner, (inside - peak[owner]).exp())
        log_mass = torch.where(mass > 0, peak + mass.log(), torch.zeros_like(logp))
        return logp - log_mass, (inside - log_mass[owner]).exp()

    def probabilities(self) -> Tensor:
        """p [rows, vocabulary], in the buffer."""
        return torch.exp(self.logs, out=self.buffer)

    def entropy(self, p: Tensor) -> Tensor:
        """[rows], by way of the spare buffer."""
        return -torch.mul(p, self.logs, out=self.spare).sum(-1)


def parts(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, reading: Reading, entropy: bool, chunk: int | None
) -> Iterator[Part]:
    """A few rows at a time, in order: at most `chunk`, as many as CHUNK_BYTES allow where it is None."""
    together("the output head", hidden, weight, bias, reading.targets, reading.rows, reading.temperature)
    n, vocabulary, wide = len(hidden), hidden.shape[1] if weight is None else weight.shape[0], _wide(hidden.dtype)
    if not n:
        return
    heat = None if bool((reading.temperature == 1).all()) else reading.temperature.to(wide)[:, None]
    most = chunk or max(1, CHUNK_BYTES // (vocabulary * wide.itemsize))
    size = -(-n // -(-n // most))  # equal pieces
    buffers = [torch.empty(size, vocabulary, dtype=wide, device=hidden.device) for _ in range(3 if entropy else 2)]
    edges = torch.searchsorted(reading.rows, torch.arange(0, n + size, size, device=hidden.device)).tolist()
    sets = reading.within
    ends = [] if sets is None else torch.searchsorted(sets.owner, torch.tensor(edges, device=hidden.device)).tolist()
    for number, start in enumerate(range(0, n, size)):
        span = slice(start, min(start + size, n))
        z, logs, *spare = (buffer[: span.stop - start] for buffer in buffers)
        if weight is None:
            z.copy_(hidden[span])
        elif weight.dtype == wide:
            torch.mm(hidden[span].to(wide), weight.t(), out=z)
        else:
            z.copy_(hidden[span].to(weight.dtype) @ weight.t())
        if bias is not None:
            z += bias
        if heat is not None:
            z /= heat[span]
        torch.log_softmax(z, -1, out=logs)
        members = slice(edges[number], edges[number + 1])
        flat = (reading.rows[members] - start) * vocabulary + reading.targets[members]
        within = None
        if sets is not None and ends[number] < ends[number + 1]:
            some = slice(ends[number], ends[number + 1])
            places = (reading.rows[sets.owner[some]] - start) * vocabulary + sets.ids[some]
            within = Within(places, sets.owner[some] - members.start)
        yield Part(span, members, flat, logs, z, spare[0] if spare else None, within)


def _empty(hidden: Tensor, reading: Reading, entropy: bool) -> Columns:
    wide = _wide(hidden.dtype)
    logp = torch.empty(len(reading.targets), dtype=wide, device=hidden.device)
    return Columns(logp, torch.empty(len(hidden), dtype=wide, device=hidden.device) if entropy else None)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)
