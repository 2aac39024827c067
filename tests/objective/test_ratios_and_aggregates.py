"""Ratios, aggregates and corrections against loops over plain lists."""

from __future__ import annotations

import math

import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.data.batch import Batch
from anypo.data.numerics import effective_sample_size, k1, k2, k3, row_uniform
from anypo.objective import (
    Banded,
    ConstantLength,
    GroupMean,
    MinimumPrefix,
    PolicyGradient,
    PrefixProduct,
    ScoreFunction,
    SelfNormalised,
    SequenceMean,
    SequenceRatio,
    SequenceSum,
    SequenceTokenRatio,
    TanhRatio,
    TokenMean,
    TokenRatio,
    Truncated,
    Unclipped,
)

LENGTHS = [[3, 1, 4], [2, 2], [5]]


@pytest.fixture
def batch() -> Batch:
    out = make(LENGTHS, seed=3)
    weight = torch.ones(len(out), dtype=torch.float64)
    weight[torch.tensor([1, 5, 9])] = 0.0
    return out.with_rows(weight=weight)


def per_sequence(batch: Batch, column: torch.Tensor) -> list[list[tuple[float, float]]]:
    """(value, weight) of every row, by sequence."""
    rows: list[list[tuple[float, float]]] = [[] for _ in range(batch.n_sequences)]
    for s, v, w in zip(batch.sequence.tolist(), column.tolist(), batch.weight.tolist()):
        rows[s].append((v, w))
    return rows


def ratio_rows(ratio, batch: Batch) -> list[list[float]]:
    algorithm, ctx = built(PolicyGradient(ratio=ratio))
    return [[v for v, _ in rows] for rows in per_sequence(batch, algorithm.ratio.log_ratio(batch, ctx))]


def test_token_sequence_and_prefix_ratios_agree_with_loops(batch: Batch) -> None:
    difference = per_sequence(batch, batch["logp"] - batch["logp_old"])
    for rows, token, mean, total, prefix, smallest in zip(
        difference,
        ratio_rows(TokenRatio(), batch),
        ratio_rows(SequenceRatio(), batch),
        ratio_rows(SequenceRatio(normalise=False), batch),
        ratio_rows(PrefixProduct(), batch),
        ratio_rows(MinimumPrefix(), batch),
    ):
        counted = [v for v, w in rows if w > 0]
        assert token == pytest.approx([v for v, _ in rows])
        assert mean == pytest.approx([sum(counted) / max(1, len(counted))] * len(rows))
        assert total == pytest.approx([sum(counted)] * len(rows))
        for t, (own, _) in enumerate(rows):
            before = [v for v, w in rows[:t] if w > 0]
            assert prefix[t] == pytest.approx(sum(before) + own)
            assert smallest[t] == pytest.approx((min(before) if before else 0.0) + own)


def test_denominators_and_numerators(batch: Batch) -> None:
    assert ratio_rows(TokenRatio(denominator="behaviour"), batch) == [
        [v for v, _ in rows] for rows in per_sequence(batch, batch["logp"] - batch["logp_behaviour"])
    ]
    fixed = ratio_rows(TokenRatio(numerator="old", denominator="behaviour"), batch)
    assert fixed == [[v for v, _ in rows] for rows in per_sequence(batch, batch["logp_old"] - batch["logp_behaviour"])]
    assert TokenRatio(denominator="ref").required() == {"reference"}
    assert TokenRatio(numerator="old", denominator="behaviour").needs() == {"logp_old", "logp_behaviour"}


def test_turn_ratio_is_a_geometric_mean_per_turn() -> None:
    batch = make([[4]])
    d = (batch["logp"] - batch["logp_old"]).tolist()
    assert ratio_rows(SequenceRatio(span="turn"), batch)[0] == pytest.approx(
        [(d[0] + d[1]) / 2] * 2 + [(d[2] + d[3]) / 2] * 2
    )


def test_gradients_of_ratios_reach_what_they_claim() -> None:
    batch = make([[3]], seed=1)
    logp = batch["logp"].clone().requires_grad_()
    live = batch.with_rows(logp=logp)
    for ratio, expected in [
        (ScoreFunction(), torch.eye(3)),
        (TokenRatio(), torch.eye(3)),
        (SequenceRatio(), torch.full((3, 3), 1 / 3)),
        (SequenceRatio(normalise=False), torch.ones(3, 3)),
        (SequenceTokenRatio(), torch.eye(3)),
        (PrefixProduct(), torch.eye(3)),
        (MinimumPrefix(), torch.eye(3)),
    ]:
        part, ctx = built(PolicyGradient(ratio=ratio))
        values = part.ratio.log_ratio(live, ctx)
        jacobian = torch.stack([torch.autograd.grad(v, logp, retain_graph=True)[0] for v in values])
        torch.testing.assert_close(jacobian, expected.double())


def test_score_function_is_one_and_the_sequence_token_ratio_has_the_value_of_the_sequence_ratio(batch: Batch) -> None:
    assert all(v == 0 for rows in ratio_rows(ScoreFunction(), batch) for v in rows)
    for own, shared in zip(ratio_rows(SequenceTokenRatio(), batch), ratio_rows(SequenceRatio(), batch)):
        assert own == pytest.approx(shared)


def test_gspo_token_has_gspos_gradient_when_a_response_shares_one_advantage() -> None:
    batch = make([[3, 4], [2, 5]], seed=5)
    batch = batch.with_rows(advantage=batch.spread(torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64)))
    whole = PolicyGradient(ratio=SequenceRatio(), trust=Unclipped(), aggregate=SequenceMean())
    split = PolicyGradient(ratio=SequenceTokenRatio(), trust=Unclipped(), aggregate=SequenceMean())
    torch.testing.assert_close(loss_and_gradient(whole, batch)[1], loss_and_gradient(split, batch)[1])


def test_tanh_ratio_is_bounded_with_slope_one_at_one() -> None:
    batch = make([[4]])
    logp = batch["logp_old"] + torch.tensor([0.0, 1e-4, 50.0, -50.0], dtype=torch.float64)
    (values,) = ratio_rows(TanhRatio(bound=1.5), batch.with_rows(logp=logp))
    assert values[0] == 0 and values[1] == pytest.approx(1e-4, rel=1e-6)
    assert values[2] == pytest.approx(1.5) and values[3] == pytest.approx(-1.5)


def test_aggregates_agree_with_loops(batch: Batch) -> None:
    values = batch["advantage"]
    rows = per_sequence(batch, values)
    sums = [sum(v * w for v, w in r) for r in rows]
    counts = [sum(w for _, w in r) for r in rows]
    means = [s / c if c else 0.0 for s, c in zip(sums, counts)]
    groups = batch.group.tolist()
    by_group = [
        sum(s for s, g in zip(sums, groups) if g == k) / max(1e-300, sum(c for c, g in zip(counts, groups) if g == k))
        for k in range(3)
    ]
    inner = [[m for m, g in zip(means, groups) if g == k] for k in range(3)]
    expected = {
        TokenMean(): sum(sums) / sum(counts),
        SequenceMean(): sum(means) / len(means),
        SequenceSum(): sum(sums) / len(sums),
        ConstantLength(length=10): sum(sums) / (10 * len(sums)),
        GroupMean(): sum(by_group) / 3,
        GroupMean(inner="sequence"): sum(sum(m) / len(m) for m in inner) / 3,
    }
    for aggregate, value in expected.items():
        assert float(aggregate.reduce(values, batch)) == pytest.approx(value), aggregate.part


def test_prompt_mean_pools_a_prompt_drawn_twice() -> None:
    batch = make([[1, 1], [1, 1]])
    batch = batch.with_sequences(prompt=torch.zeros(4, dtype=torch.int64)).with_rows(
        weight=torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    )
    v = batch["advantage"]
    assert float(GroupMean(by="prompt").reduce(v, batch)) == pytest.approx(float(v[:3].mean()))
    assert float(GroupMean().reduce(v, batch)) == pytest.approx(float((v[:2].mean() + v[2]) / 2))


def test_aggregates_of_an_empty_batch_are_zero_with_a_gradient() -> None:
    batch = make([[2, 1]])
    values = batch["advantage"].clone().requires_grad_()
    for aggregate in (TokenMean(), SequenceMean(), SequenceSum(), ConstantLength(), GroupMean()):
        masked = batch.with_rows(weight=torch.zeros(3, dtype=torch.float64))
        out = aggregate.reduce(values, masked)
        assert float(out.detach()) == 0
        assert torch.isfinite(torch.autograd.grad(out, values)[0]).all()
        none = batch.select(torch.zeros(2, dtype=torch.bool))
        assert float(aggregate.reduce(none["advantage"], none)) == 0


def test_corrections_truncate_mask_and_normalise() -> None:
    batch = make([[4]])
    gap = torch.tensor([0.1, 3.0, -3.0, 0.0], dtype=torch.float64)
    batch = batch.with_rows(logp_behaviour=batch["logp_old"] - gap)

    def factor(correction) -> list[float]:
        part, ctx = built(PolicyGradient(corrections=(correction,)))
        return part.corrections[0].factor(batch, ctx).tolist()

    w = gap.exp().tolist()
    assert factor(Truncated(cap=2.0)) == pytest.approx([min(x, 2.0) for x in w])
    assert factor(Banded(low=0.5, high=5.0)) == pytest.approx([w[0], 0.0, 0.0, 1.0])
    assert factor(Banded(low=0.5, high=5.0, weigh=False)) == [1.0, 0.0, 0.0, 1.0]
    truncated = [min(x, 2.0) for x in w]
    mean = sum(truncated) / 4
    assert factor(SelfNormalised(of=Truncated(cap=2.0))) == pytest.approx([x / mean for x in truncated])
    sequence = Truncated(ratio=SequenceRatio(numerator="old", denominator="behaviour", normalise=False), cap=10.0)
    assert factor(sequence) == pytest.approx([math.exp(0.1)] * 4)


def test_a_correction_scales_the_gradient_and_never_has_one() -> None:
    batch = make([[3, 2]], seed=4)
    plain = PolicyGradient(trust=Unclipped())
    corrected = PolicyGradient(
        trust=Unclipped(), corrections=(Truncated(ratio=TokenRatio(denominator="behaviour"), cap=1e9),)
    )
    weight = (batch["logp"] - batch["logp_behaviour"]).exp()
    torch.testing.assert_close(loss_and_gradient(corrected, batch)[1], weight * loss_and_gradient(plain, batch)[1])


def test_decoupled_pair_multiplies_to_the_whole_ratio() -> None:
    """pi/mu = (pi/old)(old/mu): the old/behaviour correction turns a ratio over old into one over behaviour."""
    batch = make([[3, 2]], seed=6)
    split = PolicyGradient(trust=Unclipped(), corrections=(Truncated(cap=1e9),))
    whole = PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=Unclipped())
    torch.testing.assert_close(loss_and_gradient(split, batch)[1], loss_and_gradient(whole, batch)[1])


def test_effective_sample_size() -> None:
    keep = torch.ones(8, dtype=torch.bool)
    noise = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = noise.exp()
    expected = float(w.sum() ** 2 / (8 * (w**2).sum()))
    assert float(effective_sample_size(noise, keep)) == pytest.approx(expected)
    assert float(effective_sample_size(noise + 500.0, keep)) == pytest.approx(expected), "scale-invariant, no overflow"
    one_hot = torch.tensor([0.0] + [-1000.0] * 7, dtype=torch.float64)
    assert float(effective_sample_size(one_hot, keep)) == pytest.approx(1 / 8)
    assert float(effective_sample_size(noise, torch.zeros(8, dtype=torch.bool))) == 1.0
    sigma = 0.5
    many = sigma * torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = float(effective_sample_size(many, torch.ones(len(many), dtype=torch.bool)))
    assert got == pytest.approx(math.exp(-(sigma**2)), rel=0.01), "log-normal weights: ESS = exp(-sigma^2)"


def test_kl_estimators_are_unbiased_for_what_they_claim() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    q = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).log_softmax(0)
    p = logits.log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    chance = p.exp().detach()
    for estimator in (k1, k3):
        assert (chance * estimator(p - q)).sum().item() == pytest.approx(exact.item())
    (true_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    gradient = lambda rows: torch.autograd.grad((chance * rows).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(gradient(k2(p - q)), true_gradient)
    ratio = (p - p.detach()).exp()
    torch.testing.assert_close(gradient(ratio * k1(p - q)), true_gradient)
    torch.testing.assert_close(gradient(ratio * k3(p - q)), true_gradient)
    torch.testing.assert_close(gradient(k1(p - q)), torch.zeros_like(true_gradient), atol=1e-12, rtol=0)
    forward = (q.exp() * (q - p)).sum()
    torch.testing.assert_close(gradient(k3(p - q)), torch.autograd.grad(forward, logits, retain_graph=True)[0])


def test_keyed_noise_belongs_to_the_row_and_not_to_its_place() -> None:
    batch = make([[3, 2], [4]])
    _, ctx = built(PolicyGradient())
    noise = row_uniform(batch, ctx, 1)
    order = torch.tensor([2, 0, 1])
    moved = row_uniform(batch.select(order), ctx, 1)
    assert sorted(moved.tolist()) == sorted(noise.tolist())
    torch.testing.assert_close(moved[:4], noise[5:])
    assert len(set(noise.tolist())) == len(noise)
    big = make([[50] * 40], seed=9)
    many = row_uniform(big, ctx, 2)
    assert abs(float(many.mean()) - 0.5) < 0.03 and abs(float((many < 0.1).double().mean()) - 0.1) < 0.03
