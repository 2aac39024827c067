"""The exact properties of `anypo.systems.baselines.reinforcement`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import make
from making_systems import assign, trainer

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.critics.gae import GAE
from anypo.data import segments
from anypo.systems import find


@pytest.mark.exact("opo")
def test_opo_baseline_is_the_length_weighted_mean() -> None:
    batch = make([[5, 1, 3]], rewards=[[1, 0, 0]])
    out = assign(find("opo").algorithm(), batch).sequences["advantage"]
    assert out.tolist() == pytest.approx([1 - 5 / 9, -5 / 9, -5 / 9])


@pytest.mark.exact("reinforce++")
def test_reinforce_plus_plus_advantage_is_the_whitened_reward_to_go() -> None:
    batch = make([[3, 2]], rewards=[[1.0, 0.0]], seed=2)
    cost = 0.01 * (batch["logp_old"] - batch["logp_ref"])
    rows = []
    for s, reward in ((0, 1.0), (1, 0.0)):
        own = cost[batch.sequence == s]
        rows += [reward - float(own[t:].sum()) for t in range(len(own))]
    raw = torch.tensor(rows, dtype=torch.float64)
    expected = (raw - raw.mean()) / (raw.std() + 1e-8)
    torch.testing.assert_close(assign(find("reinforce++").algorithm(), batch)["advantage"], expected)


def test_kl_in_the_reward_lowers_dense_rewards_and_their_total_alike() -> None:
    batch = make([[3, 2]], rewards=[[1.0, 0.0]], seed=3)
    out = assign(find("rloo").algorithm(), batch)
    paid = 0.05 * segments.sum(batch["logp_old"] - batch["logp_ref"], batch.sequence, 2)
    torch.testing.assert_close(out.sequences["reward"], batch.sequences["reward"] - paid)
    torch.testing.assert_close(segments.sum(out["step_reward"], out.sequence, 2), -paid)
    a, b = out.sequences["reward"].tolist()
    assert out.sequences["advantage"].tolist() == pytest.approx([a - b, b - a])


@pytest.mark.exact("remax")
def test_remax_subtracts_the_greedy_reward() -> None:
    run = trainer("remax")
    run.step()
    batch = run.batch
    torch.testing.assert_close(
        batch.sequences["advantage"], batch.sequences["reward"] - batch.sequences["reward/greedy"]
    )
    policy, task = run.weights.policy, run.world.task
    assert set(batch.sequences["reward/greedy"].tolist()) <= {0.0, 1.0}
    per_prompt = segments.std(batch.sequences["reward/greedy"], batch.group, batch.n_groups)
    assert bool((per_prompt == 0).all()) and policy is not None and task is not None


@pytest.mark.exact("ppo")
def test_gae_against_its_definition() -> None:
    """A_t = sum_k (gamma lam)^k delta_{t+k}, by loops, with dense rewards; and its two limits."""
    rng = np.random.default_rng(4)
    batch = make([[5, 3]], rewards=[[1.5, -0.5]])
    values, dense = rng.standard_normal(8), rng.standard_normal(8)
    batch = batch.with_rows(value_old=torch.from_numpy(values), step_reward=torch.from_numpy(dense))
    batch = batch.with_sequences(
        reward=batch.sequences["reward"] + segments.sum(batch["step_reward"], batch.sequence, 2)
    )
    for gamma, lam in ((0.9, 0.7), (1.0, 1.0), (0.8, 0.0)):
        out = assign(Algorithm(credit=GAE(gamma=gamma, lam=lam, whiten=False)), batch)
        expected = []
        for first, last, outcome in ((0, 5, 1.5), (5, 8, -0.5)):
            v, r = values[first:last], dense[first:last].copy()
            r[-1] += outcome
            delta = [r[t] + gamma * (v[t + 1] if t + 1 < len(v) else 0.0) - v[t] for t in range(len(v))]
            expected += [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(v))) for t in range(len(v))]
        assert out["advantage"].tolist() == pytest.approx(expected)
        torch.testing.assert_close(out["return"], out["advantage"] + batch["value_old"])


@pytest.mark.exact("ppo")
def test_value_loss_is_clipped_around_the_old_value() -> None:
    batch = make([[4]], rewards=[[1.0]])
    old = torch.zeros(4, dtype=torch.float64)
    credit = GAE(gamma=1.0, lam=1.0, clip=0.2, coefficient=2.0, whiten=False)
    algorithm = Algorithm.from_dict(Algorithm(credit=credit).dump())
    ctx = Context(0, 1, 0, Memory(algorithm))
    out = algorithm.credit.assign(batch.with_rows(value_old=old), ctx)
    value = torch.tensor([0.1, 0.5, -0.5, 1.3], dtype=torch.float64, requires_grad=True)
    loss = algorithm.credit.value_loss(out.with_rows(value=value), ctx)
    errors = [max((v - 1) ** 2, (min(max(v, -0.2), 0.2) - 1) ** 2) for v in value.tolist()]
    assert float(loss.detach()) == pytest.approx(2.0 * 0.5 * sum(errors) / 4)
    (gradient,) = torch.autograd.grad(loss, value)
    assert gradient[1] == 0 and gradient[3] == 0, "moving on towards the target past the clip earns nothing"
    assert gradient[0] == pytest.approx(2.0 * (0.1 - 1) / 4) and gradient[2] == pytest.approx(2.0 * (-0.5 - 1) / 4)
