"""The exact properties of `anypo.systems.control.trust_regions`, as the sources state them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from making_rows import built, make
from making_systems import ascent, rows, targets
from scipy.optimize import linprog
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.control import ControlBed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.objective import BoundedRatio, Clip, MirrorDescent, PolicyGradient, TokenMean, Unclipped
from anypo.objective.trusts.median import MedianBound
from anypo.run.acting import control_world
from anypo.run.trainer import Trainer
from anypo.systems import find

OLD = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)


def sampled(advantage: Tensor) -> tuple[Batch, Tensor]:
    """One-token responses that hold every action as often as `OLD` says, and the action of each."""
    action = torch.tensor([0, 0, 1, 2])
    batch = make([[1] * 4]).with_rows(logp_old=OLD.log()[action], advantage=advantage[action])
    return batch, action


@pytest.mark.exact("mdpo")
def test_mirror_descent_has_the_exponentiated_advantage_as_its_optimum() -> None:
    advantage = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    batch, action = sampled(advantage)
    for first in (1.0, 0.3):
        objective, context = built(
            PolicyGradient(trust=Unclipped(), regularise=(MirrorDescent(first=first, last=first),))
        )
        logits = OLD.log().clone().requires_grad_()
        optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure(objective=objective, context=context, logits=logits, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = objective.loss(batch.with_rows(logp=logits.log_softmax(0)[action]), context)
            loss.backward()
            return loss

        optimiser.step(closure)
        best = (OLD * (first * advantage).exp()) / (OLD * (first * advantage).exp()).sum()
        torch.testing.assert_close(logits.detach().softmax(0), best, rtol=0, atol=1e-6)


@pytest.mark.exact("mdpo")
def test_mirror_descents_penalty_is_the_divergence_and_flat_at_the_start() -> None:
    batch, action = sampled(torch.zeros(3, dtype=torch.float64))
    new = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    part = MirrorDescent(first=0.5, last=0.5)
    context = Context(0, 10, 0, Memory(Algorithm()))
    value = part.penalty(batch.with_rows(logp=new.log()[action]), TokenMean(), context)
    assert float(value) == pytest.approx(float((new * (new / OLD).log()).sum()) / 0.5, rel=1e-12)
    still = batch.with_rows(logp=batch["logp_old"])
    mdpo = find("mdpo").algorithm().objective
    on = still.with_rows(advantage=torch.tensor([1.0, -2.0, 0.5, 0.1], dtype=torch.float64))
    torch.testing.assert_close(ascent(mdpo, on), on["advantage"] / 4)


def test_mirror_descents_step_size_closes() -> None:
    part = MirrorDescent()
    assert [part.size(step, 4) for step in (0, 2, 3, 99)] == [1.0, 0.5, 0.25, 0.25]


@pytest.mark.exact("bpo-bounded-ratio")
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.3), (1.0, 4.0)])
def test_the_target_is_the_solution_of_the_linear_programme(low: float, high: float) -> None:
    """Uniform old policy over ten responses; (1, 4) is the elite selection of the cross-entropy method (the best fifth)."""
    trust = BoundedRatio(low=low, high=high, threshold="quantile")
    for seed in range(5):
        q = np.random.default_rng(seed).standard_normal(10)
        best = linprog(-q / 10, A_eq=np.full((1, 10), 0.1), b_eq=[1.0], bounds=[(1 - low, 1 + high)] * 10)
        found = targets(trust, q)
        np.testing.assert_allclose(found, best.x, atol=1e-8)
        if low == high:
            gain = float(found @ q / 10 - q.mean())
            assert gain == pytest.approx(low * np.abs(q - np.median(q)).mean())


@pytest.mark.exact("bpo-bounded-ratio")
def test_bounded_ratio_has_ppos_gradient_up_to_the_target_and_its_opposite_beyond() -> None:
    ratios = [0.5, 0.9, 1.1, 1.5]
    for sign in (1.0, -1.0):
        batch = rows([-1.0] * 4, [-1.0 - math.log(r) for r in ratios], [2.0 * sign] * 4)
        clip, ours = ascent(PolicyGradient(trust=Clip()), batch), ascent(PolicyGradient(trust=BoundedRatio()), batch)
        gone = clip == 0
        torch.testing.assert_close(ours[~gone], clip[~gone])
        free = ascent(PolicyGradient(trust=Unclipped()), batch)
        assert int(gone.sum()) == 1
        torch.testing.assert_close(ours[gone], -free[gone])


def judged(returns: list[float], value: float, median: float, ratios: list[float]) -> Batch:
    """Decisions with these returns and ratios in states of one value and median; advantages whitened, to mislead."""
    found = torch.tensor(returns, dtype=torch.float64)
    batch = rows(
        [-1.0] * len(returns), [-1.0 - math.log(r) for r in ratios], ((found - found.mean()) / found.std()).tolist()
    )
    same = lambda number: torch.full_like(found, number)
    return batch.with_rows(**{"return": found, "value": same(value), "median": same(median)})


def test_every_decision_above_the_median_aims_up_whatever_whitening_says() -> None:
    """Returns .9, .1 and .2 above value and median 0: whitened, two of the three would aim down."""
    bpo = find("bpo-bounded-ratio").algorithm().objective
    batch = judged([0.9, 0.1, 0.2], value=0.0, median=0.0, ratios=[1.0, 1.0, 1.0])
    assert bool((batch["advantage"] < 0).sum() == 2)
    assert bpo.trust.target(batch["return"], batch["median"]).tolist() == pytest.approx([1.3] * 3)
    assert (ascent(bpo, batch) * 3).tolist() == pytest.approx([0.9, 0.1, 0.2]), "weights |G - V| are not normalised"
    moved = judged([0.9, 0.1, 0.2, -0.4], value=0.5, median=0.15, ratios=[1.4, 1.0, 1.1, 0.6])
    assert bpo.trust.target(moved["return"], moved["median"]).tolist() == pytest.approx([1.3, 0.7, 1.3, 0.7])
    expected = [-0.4 * 1.4, -0.4 * 1.0, 0.3 * 1.1, 0.9 * 0.6]
    assert (ascent(bpo, moved) * 4).tolist() == pytest.approx(expected)
    soft = bpo.trust.target(torch.tensor([0.151], dtype=torch.float64), torch.tensor([0.15], dtype=torch.float64))
    assert float(soft) == pytest.approx(0.7 + 0.6 / (1 + math.exp(-1)))


@pytest.mark.exact("bpo-bounded-ratio")
def test_the_second_critic_is_a_soft_median_and_costs_the_policy_nothing() -> None:
    trust = MedianBound(coefficient=0.5)
    batch = judged([0.0, 0.0, 0.0, 10.0], value=2.5, median=0.3, ratios=[1.0] * 4)
    u = batch["median"].clone().requires_grad_()
    loss = trust.median_loss(batch.with_rows(median=u), Context(0, 10, 0, Memory(Algorithm())))
    (slope,) = torch.autograd.grad(loss, u)
    torch.testing.assert_close(slope, 0.5 * (0.5 - torch.sigmoid(batch["return"] - 0.3)) / 4)
    grid = torch.linspace(-2, 12, 1401, dtype=torch.float64)
    cost = (torch.nn.functional.softplus(batch["return"] - grid[:, None]) - (batch["return"] - grid[:, None]) / 2).mean(
        1
    )
    assert float(grid[cost.argmin()]) < 1.5 < 2.5, "the mean of these returns is 2.5, their median 0"
    objective, context = built(PolicyGradient(trust=trust))
    leaves = {name: batch[name].clone().requires_grad_() for name in ("median", "value", "logp")}
    objective.loss(batch.with_rows(**leaves), context).backward()
    assert leaves["median"].grad is None and leaves["value"].grad is None and leaves["logp"].grad is not None


def test_bounded_policy_optimisation_trains_both_critics_and_resumes_exactly() -> None:
    def made() -> Trainer:
        bed = ControlBed(environments=2, steps=64, epochs=2, minibatches=4, set={"objective.trust.optimiser.lr": 3e-3})
        algorithm = find("bpo-bounded-ratio").algorithm().set({"objective.trust.optimiser": "adamw"})
        return Trainer(bed.adapt(algorithm), control_world("CartPole-v1", 1, hidden=(16,)), 1, 4)

    run = made()
    before = [p.detach().clone() for p in run.weights.learners["objective.trust"].parameters()]
    first = run.step()
    assert first["objective/median_loss"] > 0 and 0 < first["objective/above_median"] <= 1
    after = list(run.weights.learners["objective.trust"].parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after))
    saved = copy.deepcopy(run.state_dict())
    assert {"policy", "credit", "objective.trust"} <= saved["weights"]["optimisers"].keys()
    again = made()
    again.load_state_dict(saved)
    ours, theirs = run.step(), again.step()
    assert ours["update/loss"] == theirs["update/loss"]
    with pytest.raises(UserError, match="set credit=gae"):
        find("bpo-bounded-ratio").algorithm().set({"credit": "pessimistic_critic"}).check()


def test_bounded_ratios_that_could_not_learn_are_refused() -> None:
    gbpo = find("gbpo").algorithm()
    with pytest.raises(UserError, match="cannot both be 0"):
        gbpo.set({"objective.trust.low": 0.0, "objective.trust.high": 0.0}).check()
    with pytest.raises(UserError, match="group of its own"):
        gbpo.set({"credit.select": [{"part": "scatter"}]}).check()


def test_a_huber_width_fades_the_pull_and_keeps_it_far_away() -> None:
    batch = rows([-1.0] * 3, [-1.0 - math.log(r) for r in (1.0, 1.15, 1.2)], [1.0] * 3)
    soft = ascent(PolicyGradient(trust=BoundedRatio(huber=0.1)), batch) * 3
    torch.testing.assert_close(soft, torch.tensor([1.0, 1.15 * 0.5, 0.0], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_many_epochs_overshoot_less_than_with_the_clip() -> None:
    """Actions with overlapping features, where pulling one moves others: full-batch steps on exact expectations. The target is no
    hard bound either (an action with a small |A| can be dragged along), but the pull back acts in every case."""
    clip, bounded = ([_largest_ratio(trust, seed) for seed in range(4)] for trust in (Clip(), BoundedRatio()))
    assert all(ours < theirs + 0.02 for ours, theirs in zip(bounded, clip))
    assert np.median(bounded) < 1.22 and max(clip) > max(bounded) + 0.1, (clip, bounded)


def _largest_ratio(trust: Clip | BoundedRatio, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    advantage = torch.randn(6, generator=generator, dtype=torch.float64)
    old = torch.full((6,), -math.log(6), dtype=torch.float64)
    batch = make([[1] * 6]).with_rows(logp_old=old, advantage=advantage - advantage.mean())
    objective, context = built(PolicyGradient(trust=trust))
    weight = torch.zeros(3, dtype=torch.float64)
    for _ in range(200):
        weight.requires_grad_()
        logp = (features @ weight).log_softmax(0)
        (gradient,) = torch.autograd.grad(objective.loss(batch.with_rows(logp=logp), context), weight)
        weight = (weight - 0.015 * gradient).detach()
    return float(((features @ weight).log_softmax(0) - old).exp().max())


def test_trpo_learns_within_its_radius_and_resumes_exactly() -> None:
    def made() -> Trainer:
        bed = ControlBed(environments=4, steps=64, set={"update": find("trpo").algorithm().update.dump()})
        return Trainer(bed.adapt("trpo"), control_world("CartPole-v1", 1, hidden=(16,)), 1, 4)

    run = made()
    metrics = [run.step() for _ in range(2)]
    saved = copy.deepcopy(run.state_dict())
    assert set(saved["weights"]["optimisers"]) == {"credit"}
    metrics += [run.step() for _ in range(2)]
    taken = [numbers["update/kl"] for numbers in metrics if numbers["update/step_length"] > 0]
    assert len(taken) >= 3 and all(0 < kl <= 0.01 for kl in taken)
    assert run.weights.policy.version == len(taken)
    again = made()
    again.load_state_dict(saved)
    for old in metrics[2:]:
        new = again.step()
        steady = [name for name in old if not name.startswith(("time/", "rollout/tokens_per"))]
        assert {n: (old[n], new.get(n)) for n in steady if old[n] != new.get(n)} == {}
    mine, theirs = run.weights.policy.state_dict(), again.weights.policy.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
