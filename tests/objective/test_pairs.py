"""DPO's loss against its formula written out, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import make

from anypo.objective.preference.pairs import PairLoss, margins


def tagged(batch, logp, ref):
    side = torch.arange(batch.n_sequences) % 2 == 0
    leaf = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    rows = {"logp": leaf, "logp_ref": torch.tensor(ref, dtype=torch.float64)}
    return batch.with_rows(**rows).with_sequences(**{"tag/chosen": side, "tag/rejected": ~side}), leaf


class Quiet:
    def log(self, name, value):
        assert np.isfinite(float(value)), name


@pytest.mark.exact("dpo")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_those_of_the_formula(smoothing):
    rng, lengths = np.random.default_rng(0), [[2, 3], [1, 4], [5, 1]]
    count = sum(map(sum, lengths))
    logp, ref = -rng.random(count), -rng.random(count)
    batch, leaf = tagged(make(lengths), logp, ref)
    PairLoss(beta=0.7, label_smoothing=smoothing).loss(batch, Quiet()).backward()
    loss = PairLoss(beta=0.7, label_smoothing=smoothing).loss(batch, Quiet()).item()
    wanted, gradient, at = 0.0, np.zeros(count), 0
    for chosen, rejected in lengths:
        c, r = slice(at, at + chosen), slice(at + chosen, at + chosen + rejected)
        m = 0.7 * ((logp[c] - ref[c]).sum() - (logp[r] - ref[r]).sum())
        p = 1 / (1 + np.exp(-m))
        wanted += (-(1 - smoothing) * np.log(p) - smoothing * np.log(1 - p)) / 3
        slope = 0.7 * (p - (1 - smoothing)) / 3
        gradient[c], gradient[r] = slope, -slope
        at += chosen + rejected
    assert loss == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, rtol=1e-12)


@pytest.mark.parametrize("ratio", [700.0, -700.0])
def test_extreme_log_ratios_stay_finite(ratio):
    batch, leaf = tagged(make([[1, 1]]), [ratio, -ratio], [0.0, 0.0])
    loss = PairLoss(beta=1.0).loss(batch, Quiet())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0 if ratio > 0 else 1400.0)
    assert leaf.grad.tolist() == pytest.approx([0.0, 0.0] if ratio > 0 else [-1.0, 1.0])


def test_groups_without_both_sides_do_not_count():
    batch, leaf = tagged(make([[2], [1, 1]]), [9.0, 9.0, 0.5, 0.25], [0.0] * 4)
    batch = batch.with_sequences(
        **{"tag/chosen": torch.tensor([True, True, False]), "tag/rejected": torch.tensor([False, False, True])}
    )
    assert margins(batch).tolist() == [0.25]
    bare, leaf = tagged(make([[2]]), [9.0, 9.0], [0.0] * 2)
    PairLoss().loss(bare, Quiet()).backward()
    assert leaf.grad.tolist() == [0.0, 0.0]
