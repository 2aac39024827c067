"""Step rules: the effective-sample-size learning rate, and curvature against autograd and the real optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.run.trainer import Trainer
from anypo.update import GradientUpdate
from anypo.update.rules.curvature import CurvatureRejection, curvature, distribution, predict
from anypo.update.rules.head import Head
from anypo.update.rules.rates import EssRate

D = torch.float64


def batch_of(tokens: list[list[int]], gaps: list[float] | None = None) -> Batch:
    """One group; every token's log ratio to the sampler is the trajectory's gap divided by its length."""
    members = []
    for i, row in enumerate(tokens):
        content = Tokens(np.array([9, *row], np.int32), np.array([CONTEXT] + [ACTION] * len(row), np.int8))
        members.append(Trajectory(0, content, -np.ones(len(row)), np.zeros(len(row), np.int64), sample=i))
    batch = Batch.pack([Group(0, tuple(members))], D)
    spread = torch.tensor(gaps or [0.0] * len(tokens), dtype=D) / batch.sequences["length"]
    return batch.with_rows(logp=batch["logp_behaviour"] + batch.spread(spread))


def rule(part) -> tuple:
    algorithm = Algorithm.from_dict(Algorithm(update=GradientUpdate(rules=(part,))).dump())
    return algorithm.update.rules[0], Context(0, 1, 0, Memory(algorithm))  # type: ignore[attr-defined]


def factor(part, batch: Batch) -> float:
    built, context = rule(part)
    return built.learning_rate(batch, context)


@pytest.mark.exact("vcpo")
def test_learning_rate_follows_the_effective_sample_size_of_trajectories() -> None:
    tokens = [[1, 2], [1], [2, 1, 1], [2]]
    assert factor(EssRate(), batch_of(tokens)) == 1.0
    gaps = [0.5, -0.2, 0.9, 0.0]
    w = [math.exp(g) for g in gaps]
    share = sum(w) ** 2 / (4 * sum(x * x for x in w))
    assert factor(EssRate(), batch_of(tokens, gaps)) == pytest.approx(math.sqrt(share))
    assert factor(EssRate(power=1.0), batch_of(tokens, gaps)) == pytest.approx(share)
    assert factor(EssRate(target=0.5), batch_of(tokens, gaps)) == pytest.approx(min(1.0, share / 0.5) ** 0.5)
    assert factor(EssRate(), batch_of(tokens, [200.0, 0.0, 0.0, 0.0])) == pytest.approx(4**-0.5), "one weight dominates"


def test_masked_trajectories_do_not_count_in_the_learning_rate() -> None:
    batch = batch_of([[1, 2], [1], [2]], [0.0, 0.0, 3.0])
    masked = batch.with_rows(weight=torch.tensor([1.0, 1, 1, 0], dtype=D))
    assert factor(EssRate(), masked) == 1.0
    assert factor(EssRate(), batch) < 1.0


def test_the_machine_applies_the_factor_to_this_step_only() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=2, batch=2, group=4, lag=3)
    run = Trainer(bed.adapt("grpo").set({"update.rules": [EssRate().dump()]}), bed.world(0), 0, 10)
    for _ in range(6):
        metrics = run.step()
    assert metrics["update/ess"] < 1
    assert metrics["update/lr"] == pytest.approx(bed.lr * math.sqrt(metrics["update/ess"]))


# -- curvature -------------------------------------------------------------------------------------------------------


def small_head(vocabulary: int = 6, width: int = 4, seed: int = 0, adam: bool = True) -> tuple[Head, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary, width, generator=g, dtype=D)
    first = 0.1 * torch.randn(vocabulary, width, generator=g, dtype=D)
    second = 0.1 * torch.rand(vocabulary, width, generator=g, dtype=D)
    head = Head(weight, first, second if adam else None, 7, 1e-3, (0.9, 0.999) if adam else (0.0, 0.0), 1e-8)
    return head, torch.randn(5, width, generator=g, dtype=D), torch.randint(vocabulary, (5,), generator=g)


@pytest.mark.exact("capo-curvature")
def test_closed_forms_agree_with_autograd() -> None:
    """g.D, D.H D and D.F D of the last layer of a small softmax model, for random directions D."""
    head, hidden, token = small_head()
    advantage = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=D)
    direction = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=D)
    for i in range(5):
        old = (head.weight @ hidden[i]).softmax(0)[token[i]]
        own = lambda w, i=i, old=old: advantage[i] * (w @ hidden[i]).softmax(0)[token[i]] / old
        gradient = torch.autograd.functional.jacobian(own, head.weight)
        hessian = torch.autograd.functional.hessian(own, head.weight)
        flat = direction.flatten()
        change = (gradient.flatten() @ flat) + 0.5 * flat @ hessian.reshape(24, 24) @ flat
        start = (head.weight @ hidden[i]).log_softmax(0)
        divergence = lambda w, i=i, p=start: (p.exp() * (p - (w @ hidden[i]).log_softmax(0))).sum()
        fisher = torch.autograd.functional.hessian(divergence, head.weight).reshape(24, 24)
        rows, p, taken = distribution(hidden[i : i + 1], token[i : i + 1], torch.ones(1, dtype=D), head.weight, 6)
        moved = (direction[rows] * hidden[i]).sum(-1)
        m_h, m_f = curvature(moved, p, taken, advantage[i : i + 1])
        assert m_f.item() == pytest.approx((0.5 * flat @ fisher @ flat).item(), rel=1e-6)
        assert m_h.item() == pytest.approx(change.item(), rel=1e-6, abs=1e-12)


@pytest.mark.exact("capo-curvature")
def test_predicted_shift_is_the_kl_of_a_small_step() -> None:
    head, hidden, token = small_head()
    direction = torch.randn(6, 4, generator=torch.Generator().manual_seed(4), dtype=D)
    rows, p, taken = distribution(hidden, token, torch.ones(5, dtype=D), head.weight, 6)
    for size, tolerance in ((1e-1, 0.2), (1e-2, 0.02), (1e-3, 0.002)):
        moved = (size * direction[rows] * hidden[:, None, :]).sum(-1)
        shift = curvature(moved, p, taken, torch.ones(5, dtype=D))[1]
        before = (hidden @ head.weight.T).log_softmax(1)
        after = (hidden @ (head.weight + size * direction).T).log_softmax(1)
        kl = (before.exp() * (before - after)).sum(1)
        torch.testing.assert_close(shift / kl, torch.ones(5, dtype=D), rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_simulated_step_is_the_real_optimisers(kind: str) -> None:
    """After some real steps, the step predicted for one token alone is the one the optimiser then takes."""
    g = torch.Generator().manual_seed(5)
    layer = nn.Parameter(torch.randn(6, 4, generator=g, dtype=D))
    build = {
        "adamw": lambda: torch.optim.AdamW([layer], lr=1e-2, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD([layer], lr=1e-2, momentum=0.9),
    }
    optimiser = build[kind]()
    for _ in range(3):
        layer.grad = torch.randn(6, 4, generator=g, dtype=D)
        optimiser.step()

    class Policy:
        def last_layer(self) -> tuple[nn.Parameter, bool]:
            return layer, False

    head = Head.of(Policy(), optimiser, 1.0)
    assert head is not None
    gradient = torch.randn(6, 4, generator=g, dtype=D)
    rows = torch.arange(6)[None]
    predicted = head.step_of(gradient[None], rows)[0]
    before = layer.detach().clone()
    layer.grad = gradient
    optimiser.step()
    torch.testing.assert_close(layer.detach() - before, predicted, rtol=1e-9, atol=1e-12)


def test_prediction_for_a_batch_is_that_of_each_token() -> None:
    """The whole path against a plain loop with the full vocabulary."""
    head, _, _ = small_head(seed=6)
    batch = batch_of([[1, 2, 3], [0, 5]])
    g = torch.Generator().manual_seed(7)
    hidden, advantage = torch.randn(5, 4, generator=g, dtype=D), torch.randn(5, generator=g, dtype=D)
    batch = batch.with_rows(hidden=hidden, advantage=advantage).with_sequences(
        temperature=torch.tensor([1.0, 0.5], dtype=D)
    )
    change, shift = predict(batch, head, 6)
    for i, (token, heat) in enumerate(zip([1, 2, 3, 0, 5], [1.0, 1, 1, 0.5, 0.5])):
        p = (head.weight @ hidden[i] / heat).softmax(0)
        error = -p
        error[token] += 1
        gradient = -advantage[i] / heat * error[:, None] * hidden[i]
        step = head.step_of(gradient[None], torch.arange(6)[None])[0]
        d = step @ hidden[i] / heat
        u, v = d[token] - p @ d, p @ d**2 - (p @ d) ** 2
        assert shift[i].item() == pytest.approx((v / 2).item(), rel=1e-9)
        assert change[i].item() == pytest.approx((advantage[i] * (u + (u**2 - v) / 2)).item(), rel=1e-9)


def test_a_smaller_support_changes_little_when_the_rest_is_unlikely() -> None:
    head, hidden, token = small_head()
    sharp = Head(head.weight * 6, head.first, head.second, 7, 1e-3)
    batch = batch_of([[0, 1, 2, 3, 4]]).with_rows(hidden=hidden, advantage=torch.ones(5, dtype=D))
    whole, few = predict(batch, sharp, 6)[1], predict(batch, sharp, 3)[1]
    assert bool(((whole - few).abs() < 0.1 * whole.max()).all()) and token is not None


def test_without_bounds_nothing_is_rejected_and_grpo_is_unchanged() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=2, batch=2, group=4)
    plain = Trainer(bed.adapt("grpo"), bed.world(0), 0, 9)
    ruled = Trainer(bed.adapt("grpo").set({"update.rules": [CurvatureRejection().dump()]}), bed.world(0), 0, 9)
    for _ in range(4):
        plain.step(), ruled.step()
    assert torch.equal(plain.weights.policy.weight, ruled.weights.policy.weight)


def test_tokens_with_a_large_predicted_shift_are_masked() -> None:
    head, hidden, _ = small_head(seed=8)
    batch = batch_of([[1, 2, 3, 4, 5]]).with_rows(hidden=hidden, advantage=torch.tensor([1.0, -1, 2, 0.1, -3], dtype=D))
    change, shift = predict(batch, head, 6)
    limit = float(shift.median())
    part, context = rule(CurvatureRejection(shift=limit))
    context.head = head
    assert part.weigh(batch, context).tolist() == (shift <= limit).double().tolist()
    part, context = rule(CurvatureRejection(low=0.0))
    context.head = head
    assert part.weigh(batch, context).tolist() == (change >= 0).double().tolist()
