"""Every segment operation against a loop, in float64, on segments of any size, empty ones included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anypo.data import segments

FAST = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(-1e6, 1e6, allow_nan=False, width=64)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Values [N], ids [N] in any order, and the number of segments (some may be empty)."""
    n = draw(st.integers(1, 5))
    ids = draw(st.lists(st.integers(0, n - 1), max_size=24))
    values = draw(st.lists(numbers, min_size=len(ids), max_size=len(ids)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(ids, dtype=torch.int64), n


def members(values: torch.Tensor, ids: torch.Tensor, n: int) -> list[np.ndarray]:
    return [values.numpy()[ids.numpy() == i] for i in range(n)]


def reduce(case: tuple, rule, empty: float) -> torch.Tensor:
    return torch.tensor([rule(m) if len(m) else empty for m in members(*case)], dtype=torch.float64)


def scan(case: tuple, rule) -> torch.Tensor:
    """`rule(list) -> list of the same length`, applied inside each segment and put back in row order."""
    values, ids, _n = case
    out = torch.zeros(len(values), dtype=torch.float64)
    for i, m in enumerate(members(*case)):
        if len(m):
            out[ids == i] = torch.tensor(rule(list(m)), dtype=torch.float64)
    return out


def same(found: torch.Tensor, wanted: torch.Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found.to(torch.float64), wanted.to(torch.float64), rtol=1e-9, atol=1e-7 * scale)


@FAST
@given(cases())
def test_sums_means_and_extrema(case: tuple) -> None:
    same(segments.count(case[1], case[2]), reduce(case, len, 0))
    same(segments.sum(*case), reduce(case, np.sum, 0))
    same(segments.mean(*case), reduce(case, np.mean, 0))
    same(segments.max(*case), reduce(case, np.max, -math.inf))
    same(segments.min(*case), reduce(case, np.min, math.inf))


@FAST
@given(cases(), st.integers(0, 1))
def test_variance_and_std(case: tuple, ddof: int) -> None:
    wanted = reduce(case, lambda m: np.var(m, ddof=ddof) if len(m) > ddof else 0.0, 0)
    torch.testing.assert_close(segments.variance(*case, ddof=ddof), wanted, rtol=1e-8, atol=1e-4)
    torch.testing.assert_close(segments.std(*case, ddof=ddof), wanted.sqrt(), rtol=1e-8, atol=1e-2)


@FAST
@given(cases(), st.integers(0, 2**31))
def test_weighted_mean(case: tuple, seed: int) -> None:
    values, ids, n = case
    weights = torch.tensor(np.random.default_rng(seed).integers(0, 3, len(values)), dtype=torch.float64)
    wanted = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        w, v = weights[ids == i], values[ids == i]
        wanted[i] = (w * v).sum() / w.sum() if w.sum() > 0 else 0.0
    same(segments.mean(values, ids, n, weights), wanted)


@FAST
@given(cases())
def test_logsumexp(case: tuple) -> None:
    values, ids, n = case
    small = (values / 1e4, ids, n)
    same(segments.logsumexp(*small), reduce(small, lambda m: float(np.logaddexp.reduce(m)), -math.inf))


def test_logsumexp_of_huge_values_is_finite() -> None:
    values = torch.tensor([1e300, 1e300, -1e300], dtype=torch.float64)
    assert segments.logsumexp(values, torch.tensor([0, 0, 1]), 2).tolist() == [1e300, -1e300]


@FAST
@given(cases(), st.booleans(), st.booleans())
def test_cumsum(case: tuple, reverse: bool, exclusive: bool) -> None:
    def loop(m: list[float]) -> list[float]:
        out = []
        for t in range(len(m)):
            if reverse:
                out.append(sum(m[t + 1 :] if exclusive else m[t:]))
            else:
                out.append(sum(m[:t] if exclusive else m[: t + 1]))
        return out

    same(segments.cumsum(*case, reverse=reverse, exclusive=exclusive), scan(case, loop))


@FAST
@given(cases(), st.booleans())
def test_running_extrema(case: tuple, exclusive: bool) -> None:
    def low(m: list[float]) -> list[float]:
        return [min(m[:t], default=7.0) if exclusive else min(m[: t + 1]) for t in range(len(m))]

    def high(m: list[float]) -> list[float]:
        return [max(m[:t], default=7.0) if exclusive else max(m[: t + 1]) for t in range(len(m))]

    same(segments.cummin(*case, exclusive=exclusive, first=7.0), scan(case, low))
    same(segments.cummax(*case, exclusive=exclusive, first=7.0), scan(case, high))


@FAST
@given(cases(), st.integers(0, 2**31))
def test_discounted_sum(case: tuple, seed: int) -> None:
    values, ids, n = case
    decay = torch.tensor(np.random.default_rng(seed).uniform(0, 1, len(values)))
    wanted = torch.zeros_like(values)
    carry = [0.0] * n
    for row in range(len(values) - 1, -1, -1):
        segment = int(ids[row])
        carry[segment] = float(values[row]) + float(decay[row]) * carry[segment]
        wanted[row] = carry[segment]
    same(segments.discounted(values, ids, n, decay), wanted)
    same(segments.discounted(values, ids, n, 1.0), segments.cumsum(values, ids, n, reverse=True))


@FAST
@given(cases(), st.booleans())
def test_rank_within_and_order(case: tuple, descending: bool) -> None:
    values, ids, n = case

    def loop(m: list[float]) -> list[float]:
        order = sorted(range(len(m)), key=lambda i: (-m[i] if descending else m[i], i))
        return [float(order.index(i)) for i in range(len(m))]

    same(segments.rank(values, ids, n, descending), scan(case, loop))
    same(segments.within(ids, n), scan(case, lambda m: [float(i) for i in range(len(m))]))
    wanted = sorted(range(len(ids)), key=lambda i: (int(ids[i]), float(values[i]), i))
    assert segments.order(ids, values).tolist() == wanted


@FAST
@given(cases(), st.floats(0, 1))
def test_quantile_and_median(case: tuple, q: float) -> None:
    same(segments.quantile(*case, q=q), reduce(case, lambda m: np.quantile(m, q), 0), scale=10)
    same(segments.median(*case), reduce(case, np.median, 0))


@FAST
@given(st.floats(-1e4, 1e4, width=32), st.integers(1, 33))
def test_equal_members_have_no_deviation_in_single_precision(value: float, size: int) -> None:
    """0.1 eight times must not have a mean of 0.10000001: divided by a standard deviation it would become a signal."""
    values = torch.full((size,), value)
    ids = torch.zeros(size, dtype=torch.int64)
    assert bool((values == segments.mean(values, ids, 1)[ids]).all())
    assert float(segments.std(values, ids, 1)) == 0.0


def test_reductions_act_on_every_column() -> None:
    values = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([2, 0, 0, 2, 2, 0, 2])
    for name in ("sum", "mean", "max", "min", "std"):
        whole = getattr(segments, name)(values, ids, 4)
        for column in range(3):
            one = getattr(segments, name)(values[:, column], ids, 4)
            torch.testing.assert_close(whole[:, column], one, equal_nan=True)


@pytest.mark.parametrize("name", ["sum", "mean", "variance", "std", "logsumexp"])
def test_gradients_by_finite_differences(name: str) -> None:
    values = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ids = torch.tensor([0, 2, 0, 2, 2, 0, 2, 0])  # segment 1 is empty
    keep = torch.tensor([0, 2])
    assert torch.autograd.gradcheck(lambda v: getattr(segments, name)(v, ids, 3)[keep], (values,))


def test_std_gradient_at_zero_spread_is_zero() -> None:
    values = torch.full((3,), 2.0, requires_grad=True)
    segments.std(values, torch.zeros(3, dtype=torch.int64), 1).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0.0, 0.0, 0.0]


def test_exclusive_cumsum_survives_a_huge_own_value() -> None:
    values = torch.tensor([1.0, 2.0, 1e30])
    ids = torch.zeros(3, dtype=torch.int64)
    assert segments.cumsum(values, ids, 1, exclusive=True).tolist() == [0.0, 1.0, 3.0]


def test_nothing_in_nothing_out() -> None:
    none, ids = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for name in ("cumsum", "cummin", "cummax", "rank"):
        assert len(getattr(segments, name)(none, ids, 0)) == 0
        assert len(getattr(segments, name)(none, ids, 2)) == 0
    assert len(segments.discounted(none, ids, 2, 0.9)) == 0
    assert segments.quantile(none, ids, 2, 0.5).tolist() == [0.0, 0.0]
    assert segments.mean(none, ids, 2).tolist() == [0.0, 0.0]
