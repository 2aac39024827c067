"""Parts that learn: they start ignorant, they learn, they are calibrated, they survive a checkpoint."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for, rollout

from anypo.context import Memory
from anypo.control import HardFocus, UncertainPrompts
from anypo.credit.centres.generalist import (
    ContextValue,
    GeneralistValue,
    LearnValue,
    prompt_features,
    route,
    value_loss,
)
from anypo.credit.centres.heads import fit_head, principal, rollout_features
from anypo.credit.centres.probe import CrossProbe
from anypo.credit.pipeline import Pipeline
from anypo.data.batch import Batch
from anypo.data.prompts import VALUES, prompt_store
from anypo.data.records import Group


def world(seed: int, prompts: int, size: int = 2) -> tuple[Batch, torch.Tensor]:
    """Prompts of varied difficulty whose hidden states carry the log odds of success beside noise; and the true values [S]."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.5, prompts)
    value = 1 / (1 + np.exp(-difficulty))
    rewards = (rng.random((prompts, size)) < value[:, None]).astype(float)
    batch = batch_of(rewards.tolist(), rng.integers(2, 5, (prompts, size)).tolist())
    odds = torch.tensor(difficulty)[batch.row_group]
    noise = torch.tensor(rng.normal(size=(len(batch), 6)))
    hidden = torch.cat([odds[:, None] + 0.3 * noise[:, :1], noise], 1).float()
    entropy = torch.tensor(rng.exponential(1.0, len(batch)))
    return batch.with_rows(hidden=hidden, entropy_old=entropy), torch.tensor(value)[batch.group]


def test_probe_is_ignorant_first_then_calibrated_on_new_prompts() -> None:
    part = CrossProbe(warmup=64)
    context = context_for(part)
    first, _ = world(0, 40)
    start = part.baseline(first.sequences["reward"].unsqueeze(1), first, context)
    assert start.unique().tolist() == [0.5]
    for seed in range(1, 9):
        batch, value = world(seed, 40)
        guess = part.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)[:, 0]
    spread = ((value - value.mean()) ** 2).sum()
    assert 1 - float(((value - guess) ** 2).sum() / spread) > 0.7
    order = torch.argsort(guess)
    for chunk in order.chunk(4):  # predicted and true success agree in every quarter
        assert float(guess[chunk].mean()) == pytest.approx(float(value[chunk].mean()), abs=0.12)
    assert float(guess.min()) >= 0 and float(guess.max()) <= 1


def test_probe_reads_the_other_rollout_only() -> None:
    part = CrossProbe(warmup=16)
    context = context_for(part)
    for seed in range(3):
        batch, _ = world(seed, 30)
        part.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)
    saved = context.memory.state_dict()
    batch, _ = world(9, 4)
    found = []
    for change in (0.0, 5.0):
        memory = Memory(part)
        memory.load_state_dict(saved)
        hidden = batch["hidden"].clone()
        hidden[batch.sequence == 0] += change  # rollout 0 looks different; its partner is rollout 1
        moved = batch.with_rows(hidden=hidden)
        found.append(
            part.baseline(moved.sequences["reward"].unsqueeze(1), moved, context_for(part, memory=memory))[:, 0]
        )
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]
    torch.testing.assert_close(found[0][2:], found[1][2:])


def test_crossed_baselines_are_unbiased_and_own_baselines_are_not() -> None:
    """Enumerated bandit with four actions and an arbitrary nonlinear g of the action."""
    logits = torch.tensor([0.4, -0.3, 0.9, 0.0], dtype=torch.float64)
    p, reward = torch.softmax(logits, 0), torch.tensor([1.0, 0.2, 0.0, 0.7], dtype=torch.float64)
    g = torch.sin(torch.arange(4.0, dtype=torch.float64) * 2.3) * 0.6 + 0.3
    score = torch.eye(4, dtype=torch.float64) - p
    exact = ((p * reward)[:, None] * score).sum(0)
    crossed, own, loo = (torch.zeros(4, dtype=torch.float64) for _ in range(3))
    for a, b in itertools.product(range(4), repeat=2):
        weight = p[a] * p[b]
        crossed += weight * ((reward[a] - g[b]) * score[a] + (reward[b] - g[a]) * score[b]) / 2
        own += weight * ((reward[a] - g[a]) * score[a] + (reward[b] - g[b]) * score[b]) / 2
        loo += weight * ((reward[a] - reward[b]) * score[a] + (reward[b] - reward[a]) * score[b]) / 2
    torch.testing.assert_close(crossed, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(loo, exact, rtol=0, atol=1e-12)
    assert float((own - exact).abs().max()) > 0.01


def test_probe_checkpoints_and_shrugs_off_missing_features() -> None:
    credit = Pipeline(centre=CrossProbe(warmup=16))
    context = context_for(credit)
    for seed in range(3):
        credit.assign(world(seed, 20)[0], context)
    restored = Memory(credit)
    restored.load_state_dict(context.memory.state_dict())
    batch = world(7, 5)[0]
    again = credit.assign(batch, context_for(credit, memory=restored))["advantage"]
    torch.testing.assert_close(again, credit.assign(batch, context)["advantage"])
    plain = batch_of([[1.0, 0.0]] * 20)
    assert len(rollout_features(plain)) == 1  # only the length is known
    assert bool(torch.isfinite(credit.assign(plain, context_for(credit))["advantage"]).all())
    lone = credit.assign(batch_of([[1.0], [0.0]]), context_for(credit))["advantage"]
    assert lone.tolist() == [0.5, -0.5]


def test_a_head_needs_data_and_ignores_dead_directions() -> None:
    memory = {"blocks": [torch.zeros(50, 3, dtype=torch.float64)], "targets": torch.rand(50, dtype=torch.float64)}
    assert fit_head(memory, 2, 0.01, 51) is None
    head = fit_head(memory, 2, 0.01, 10)
    assert head is not None
    guess = head.predict([torch.ones(4, 3, dtype=torch.float64)])
    assert guess.tolist() == pytest.approx([float(memory["targets"].mean())] * 4)


# -- the generalist value model --------------------------------------------------------------------------------------------


def test_ranking_loss_ignores_what_only_the_context_knows() -> None:
    logits = torch.randn(20, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outcomes = (torch.arange(20) % 3 == 0).float()
    grads = [torch.autograd.grad(value_loss(logits + b, outcomes, 1.0), logits)[0] for b in (0.0, 3.7)]
    torch.testing.assert_close(grads[0], grads[1])
    assert float(value_loss(torch.zeros(20), outcomes, 1.0)) == pytest.approx(np.log(2))
    one_sided = value_loss(torch.zeros(4), torch.ones(4), 0.25)
    assert float(one_sided) == pytest.approx(np.log(2))


def test_context_order_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    model = ContextValue(seed=3)
    queries, prompts = torch.rand(3, 256, generator=generator), torch.rand(30, 256, generator=generator)
    outcomes = (torch.rand(30, generator=generator) > 0.5).float()
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(model(queries, prompts, outcomes), model(queries, prompts[order], outcomes[order]))


def test_generalist_learns_difficulty_and_tells_unseen_prompts_apart() -> None:
    """Prompts whose tokens say how hard they are; success follows. Prompts that never occurred must be ranked."""
    part = GeneralistValue(updates=8)
    context = context_for(part)
    known = context.memory.shelf.find(VALUES)
    rng = np.random.default_rng(0)
    draw = lambda: rng.integers(0, 97 * 89, 24)
    easy = lambda ids: ids % 97 < 48
    seen: set[int] = set()
    with torch.random.fork_rng():
        for _ in range(60):
            ids = draw()
            seen |= set(ids.tolist())
            batch = batch_of([[float(rng.random() < (0.9 if e else 0.1))] for e in easy(ids)], prompts=ids.tolist())
            part.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)
    ids = np.array(sorted(set(range(97 * 89)) - seen)[::50])
    features = [prompt_features(t) for t in batch_of([[0.0]] * len(ids), prompts=ids.tolist()).trajectories]
    guess = known.predict(torch.from_numpy(np.stack(features)))
    assert float(guess[easy(ids)].mean()) > float(guess[~easy(ids)].mean()) + 0.2
    restored = Memory(part)
    restored.load_state_dict(context.memory.state_dict())
    queries = known.prompts[:5]
    torch.testing.assert_close(restored.shelf.find(VALUES).predict(queries), known.predict(queries))


def test_learn_value_leaves_rewards_alone() -> None:
    part = LearnValue()
    batch = batch_of([[1.0, 0.0], [0.0, 0.0]])
    assert part.shape(batch, context_for(part)) is batch


def test_routing_weighs_price_against_success() -> None:
    assert route([0.9, 0.8], [10.0, 1.0], 0.05) == 1 and route([0.9, 0.3], [10.0, 1.0], 0.05) == 0


# -- control parts that read what credit learned ----------------------------------------------------------------------------


def seen(part, context, rates: dict[int, float]) -> None:
    part.observe([Group(1000 + i, (rollout(r),), index=i) for i, r in rates.items()], Batch.pack([]), context)


def test_uncertain_prompts_are_drawn_more_often() -> None:
    part = UncertainPrompts(samples=1, first_samples=8)
    context = context_for(part)
    seen(part, context, {0: 1.0, 1: 1.0, 2: 1.0})
    prompt_store(context).write("beta/a", [1000, 1001, 1002], [5.0, 9.99, 0.01])
    prompt_store(context).write("beta/b", [1000, 1001, 1002], [5.0, 0.01, 9.99])
    counts = np.zeros(3)
    for step in range(400):
        context.step = step
        asks = part.choose(3, 1, context)
        counts[asks[0].index] += 1
        assert asks[0].samples == 1
    wanted = np.array([0.5, np.sqrt(0.001 * 0.999), np.sqrt(0.001 * 0.999)]) + 0.05
    np.testing.assert_allclose(counts / 400, wanted / wanted.sum(), atol=0.07)
    assert len({ask.index for ask in part.choose(3, 3, context)}) == 3  # without replacement
    assert [a.samples for a in part.choose(4, 4, context) if a.index == 3] == [8]


@pytest.mark.exact("drive")
def test_hard_focus_narrows_to_what_is_unsolved() -> None:
    part = HardFocus(samples=8, deep_samples=16, breadth=0.4, phases=2, keep=0.5)
    context = context_for(part, total=10)
    assert [a.samples for a in part.choose(8, 4, context)] == [8] * 4
    rates = dict(enumerate([0.0, 0.1, 0.95, 0.5, 1.0, 0.3, 0.9, 0.2]))
    memory = context.memory[part]
    memory["rates"] = dict(rates)
    context.step = 4
    asks = part.choose(8, 4, context)
    assert memory["pool"] == [0, 1, 7, 5] and {a.samples for a in asks} == {16} and len(asks) == 2
    before = np.mean([rates[i] for i in memory["pool"]])
    memory["rates"][1] = 1.0
    context.step = 8
    part.choose(8, 4, context)
    assert memory["pool"] == [0, 7] and np.mean([rates[i] for i in memory["pool"]]) <= before
    restored = Memory(part)
    restored.load_state_dict(context.memory.state_dict())
    assert restored[part]["pool"] == [0, 7]


@pytest.mark.parametrize(("n", "p"), [(8, 1 / 64), (8, 0.125), (8, 0.5), (64, 1 / 64), (64, 0.125)])
def test_share_of_mixed_groups(n: int, p: float) -> None:
    rng = np.random.default_rng(n)
    right = (rng.random((40_000, n)) < p).sum(1)
    assert np.mean((right > 0) & (right < n)) == pytest.approx(1 - p**n - (1 - p) ** n, abs=0.012)


def test_principal_components_of_features_that_are_mostly_constant() -> None:
    """One-hot features of which most never occur: the projection is that of the occurring ones, constants add nothing."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    block = torch.full((60, 400), 3.0, dtype=torch.float64)
    block[:, 7:12] = dense
    z = (block - block.mean(0)) @ principal(block, 4)[1]
    torch.testing.assert_close(z.T @ z / 59, torch.eye(4, dtype=torch.float64))
    top = torch.linalg.svd(dense - dense.mean(0), full_matrices=False)[0][:, :4]
    torch.testing.assert_close(z @ z.T, 59 * top @ top.T)
    centre, basis = principal(torch.ones(8, 3, dtype=torch.float64), 2)
    assert centre.tolist() == [1.0] * 3 and not bool(basis.any())
