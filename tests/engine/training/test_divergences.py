"""Divergences at the output head: against autograd over full logits, in float64, and never a tensor of rows x vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anypo.engine.training.divergences import (
    Capped,
    ForwardKL,
    JensenShannon,
    Leading,
    ReverseKL,
    compare,
    divergence,
)
from anypo.engine.training.head import Head
from anypo.errors import UserError

N, D, E, V = 13, 5, 7, 11


def _naive(beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    """From probabilities, as the papers write it."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1)

    def value(p: Tensor, q: Tensor) -> Tensor:
        if beta in (0, 1):
            return kl(q, p) if beta == 0 else kl(p, q)
        m = (1 - beta) * p + beta * q
        return beta * kl(q, m) + (1 - beta) * kl(p, m)

    return value


def _inputs(dtype: torch.dtype = torch.float64, n: int = N, v: int = V) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    live = {"hidden": draw(n, D), "weight": draw(v, D), "bias": draw(v)}
    given = {"given": draw(n, E), "given_weight": draw(v, E)}
    return {k: x.requires_grad_() for k, x in (live | given).items()} | {"heat": 0.5 + draw(n).abs(), "d": draw(n)}


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("chunk", [1, 4, N, 100, None])
@pytest.mark.parametrize("tempered", [False, True])
def test_value_and_gradient_are_those_of_full_logits(beta: float, chunk: int | None, tempered: bool) -> None:
    x = _inputs()
    heat = x["heat"] if tempered else torch.ones_like(x["heat"])
    found = compare(
        divergence(beta), x["hidden"], Head(x["weight"], x["bias"]), x["given"], Head(x["given_weight"]), heat, chunk
    )
    p = ((x["hidden"] @ x["weight"].t() + x["bias"]) / heat[:, None]).softmax(-1)
    q = ((x["given"] @ x["given_weight"].t()) / heat[:, None]).softmax(-1).detach()
    wanted = _naive(beta)(p, q)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    live = [x["hidden"], x["weight"], x["bias"]]
    for ours, theirs in zip(torch.autograd.grad(found, live, x["d"]), torch.autograd.grad(wanted, live, x["d"])):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_the_given_side_is_fixed(beta: float) -> None:
    x = _inputs()
    compare(
        divergence(beta), x["hidden"], Head(x["weight"]), x["given"], Head(x["given_weight"]), x["heat"]
    ).sum().backward()
    assert x["given"].grad is None and x["given_weight"].grad is None and x["weight"].grad is not None


@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_equal_sides_give_nothing(beta: float) -> None:
    x = _inputs()
    head = Head(x["weight"], x["bias"])
    found = compare(divergence(beta), x["hidden"], head, x["hidden"], head, x["heat"])
    (pull,) = torch.autograd.grad(found.sum(), [x["hidden"]])
    assert float(found.detach().abs().max()) < 1e-14 and float(pull.abs().max()) < 1e-14


def test_jensen_shannon_is_symmetric_and_tends_to_forward_kl() -> None:
    g = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 4, V, generator=g, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(JensenShannon(0.3).value(p, q), JensenShannon(0.7).value(q, p))
    torch.testing.assert_close(JensenShannon(1e-7).value(p, q) / 1e-7, ForwardKL().value(p, q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1])
def test_excluded_tokens_count_nothing(beta: float) -> None:
    p = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64)
    q = torch.tensor([[math.log(0.5), math.log(0.5), -math.inf]], dtype=torch.float64)
    statistic, one = divergence(beta), torch.ones(1, dtype=torch.float64)
    wanted = (
        math.log(2) if beta == 1 else 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)) + 0.5 * math.log(4 / 3)
    )
    assert float(statistic.value(p, q)) == pytest.approx(wanted)
    assert bool(statistic.pull(p, q, one).isfinite().all())


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returned."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        return out


@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_no_tensor_of_rows_by_vocabulary_exists(beta: float) -> None:
    n, v, chunk = 64, 101, 8
    x = _inputs(torch.float32, n, v)
    with _Largest() as seen:
        found = compare(
            divergence(beta), x["hidden"], Head(x["weight"]), x["given"], Head(x["given_weight"]), x["heat"], chunk
        )
        found.sum().backward()
    assert chunk * v <= seen.most < n * v
    assert x["hidden"].grad is not None


def test_sides_must_fit_and_beta_lies_between() -> None:
    x = _inputs()
    with pytest.raises(UserError, match="one vocabulary"):
        compare(ReverseKL(), x["hidden"], Head(x["weight"]), x["given"], Head(x["given_weight"][:-1]), x["heat"])
    with pytest.raises(UserError, match="as many rows"):
        compare(ReverseKL(), x["hidden"], Head(x["weight"]), x["given"][1:], Head(x["given_weight"]), x["heat"])
    with pytest.raises(UserError, match="beta"):
        JensenShannon(0)


def _terms(beta: float, p: Tensor, q: Tensor) -> Tensor:
    """What every token adds, from probabilities."""
    if beta in (0, 1):
        return q * (q / p).log() if beta == 0 else p * (p / q).log()
    m = (1 - beta) * p + beta * q
    return beta * q * (q / m).log() + (1 - beta) * p * (p / m).log()


@pytest.mark.parametrize("beta", [0, 0.3, 1])
@pytest.mark.parametrize("cap", [0.02, 100.0])
@pytest.mark.parametrize("k", [0, 1, 4, V + 5])
def test_bounded_terms_and_leading_tokens(beta: float, cap: float, k: int) -> None:
    """The bound is on each token of the vocabulary, after the choice of the given side's likeliest and the renormalisation."""
    x = _inputs()
    statistic = Leading(Capped(divergence(beta), cap), k) if k else Capped(divergence(beta), cap)
    found = compare(statistic, x["hidden"], Head(x["weight"]), x["given"], Head(x["given_weight"]), x["heat"], 4)
    p, q = (
        ((x[h] @ x[w].t()) / x["heat"][:, None]).softmax(-1)
        for h, w in (("hidden", "weight"), ("given", "given_weight"))
    )
    q = q.detach()
    if k:
        chosen = q.argsort(-1, descending=True)[:, : min(k, V)]
        p, q = (side.gather(-1, chosen) / side.gather(-1, chosen).sum(-1, keepdim=True) for side in (p, q))
    terms = _terms(beta, p, q)
    bound = terms > cap
    assert cap > 1 or k == 1 or (bool(bound.any()) and not bool(bound.all()))
    wanted = torch.where(bound, torch.full_like(terms, cap), terms).sum(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    live = [x["hidden"], x["weight"]]
    for ours, theirs in zip(torch.autograd.grad(found, live, x["d"]), torch.autograd.grad(wanted, live, x["d"])):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_terms_add_up_to_the_value_where_a_token_is_impossible(beta: float) -> None:
    statistic = divergence(beta)
    logs = torch.tensor([[0.0, -1.0, -2.0]]).double().log_softmax(-1)
    given = torch.tensor([[0.0, -float("inf"), 1.0]]).double().log_softmax(-1)
    if beta == 1:
        logs, given = given, logs
    torch.testing.assert_close(statistic.terms(logs, given).sum(-1), statistic.value(logs, given))
    assert bool(torch.isfinite(statistic.slopes(logs, given)).all())
