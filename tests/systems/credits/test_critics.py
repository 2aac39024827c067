"""The exact properties of `anypo.systems.credits.critics`, as the sources state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, make
from making_systems import ASYNCHRONOUS, BED, assign, method, trainer

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.critics.gae import GAE
from anypo.credit.critics.pessimistic import soft_minimum
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.exact import EnumerablePolicy
from anypo.exact.check import case, library_gradient
from anypo.objective import KLControl, PolicyGradient
from anypo.objective.regularisers.kl_control import phase
from anypo.run.trainer import Trainer
from anypo.systems import find


def value_batch(values: list[float], reward: float, truncated: bool) -> Batch:
    batch = make([[len(values)]], rewards=[[reward]])
    return batch.with_rows(value_old=torch.tensor(values, dtype=torch.float64)).with_sequences(
        truncated=torch.tensor([truncated])
    )


@pytest.mark.exact("t-ppo")
def test_the_cards_truncated_advantages() -> None:
    credit = GAE(lam=0.95, truncated="last", whiten=False, value_lam=1.0, value_on="finished")
    out = assign(Algorithm(credit=credit), value_batch([0.2, 0.5, 0.4], 1.0, True))
    assert out["advantage"].tolist() == pytest.approx([0.205, -0.1, 0.0])
    assert out["value_weight"].tolist() == [0, 0, 0], "the critic does not see unfinished answers"
    done = assign(Algorithm(credit=credit), value_batch([0.2, 0.5, 0.4], 1.0, False))
    deltas = [0.3, -0.1, 0.6]
    expected = [deltas[0] + 0.95 * deltas[1] + 0.95**2 * deltas[2], deltas[1] + 0.95 * deltas[2], deltas[2]]
    assert done["advantage"].tolist() == pytest.approx(expected)
    assert done["return"].tolist() == pytest.approx([1.0, 1.0, 1.0]), "Monte Carlo return"


def test_an_all_zero_critic_gives_unfinished_windows_no_gradient() -> None:
    batch = value_batch([0.0] * 4, 1.0, True)
    mixed = make([[4, 2]], rewards=[[1.0, 1.0]])
    mixed = mixed.with_rows(value_old=torch.zeros(6, dtype=torch.float64))
    mixed = mixed.with_sequences(truncated=torch.tensor([True, False]))
    for rows in (batch, mixed):
        unfinished = rows.spread(rows.sequences["truncated"])
        assert assign(find("t-ppo").algorithm(), rows)["advantage"][unfinished].tolist() == [0, 0, 0, 0]


def test_a_batch_in_which_no_answer_is_finished_teaches_the_critic_nothing_and_the_policy_all_the_same() -> None:
    """Its loss was 0 / 0, and a joint step without a finite loss is skipped."""
    run = trainer("t-ppo", bed=BED.replace(prompts=1, batch=1, group=1, kind="linear"))
    for _ in range(4):
        metrics = run.step()
        assert all(math.isfinite(value) for value in metrics.values()) and metrics["update/skipped"] == 0


def brief(policy: EnumerablePolicy, seed: int) -> None:
    """A policy whose answers have two letters at most."""
    graph = policy.graph
    with torch.no_grad():
        policy.weight.view(policy.prompts, graph.states, graph.vocabulary)[:, graph.depth() >= 2, 0] += 60.0


@pytest.mark.exact("t-ppo")
def test_where_every_answer_ends_inside_its_first_window_it_is_ppo() -> None:
    """The same rollouts, advantages and updates, once the critic's target is the same."""
    bed = BED.replace(prepare=brief)
    t_ppo = trainer("t-ppo", {"generate.window": 3, "credit.value_lam": None, "credit.whiten": True}, bed)
    ppo = trainer("ppo", {"credit.shaping": [], "update.reference": "none", "update.epochs": 1}, bed)
    for _ in range(3):
        t_ppo.step(), ppo.step()
        texts = [[t.text for g in run.groups for t in g.trajectories] for run in (t_ppo, ppo)]
        assert texts[0] == texts[1]
        assert torch.equal(t_ppo.batch["advantage"], ppo.batch["advantage"])
    assert torch.equal(t_ppo.weights.policy.weight, ppo.weights.policy.weight)


def test_a_window_that_no_answer_outgrows_is_refused_and_the_default_is_a_third() -> None:
    t_ppo = find("t-ppo").algorithm()
    for length in (8, 16, 24_000):
        fitted = t_ppo.set({"generate.max_new": length}).check()
        assert fitted.generate.size == math.ceil(length / 3)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"a window of 32 tokens is not shorter than generate\.max_new=16"):
        t_ppo.set({"generate.max_new": 16, "generate.window": 32}).check()


def test_windows_train_every_token_once_and_keep_the_slots_full() -> None:
    run = trainer("t-ppo", {"generate.window": 2}, BED.replace(horizon=6, spread=0.1))
    generated = trained = 0
    versions = set()
    for _ in range(12):
        before = [len(saved["logp"]) for *_, saved in run.memory.states["generate"]["open"]]
        run.step()
        members = [t for g in run.groups for t in g.trajectories]
        assert len(members) == 12, "every slot works in every step"
        new = sum(len(t) for t in members) - sum(before)
        generated += new
        trained += int(run.batch.weight.sum())
        versions |= {len(set(t.version.tolist())) for t in members}
        for t in members:
            assert len(t) - t.extra["window"] <= 2
    assert trained == generated
    assert max(versions) == 3, "answers of six tokens are written by three policies"


def test_the_soft_minimum_lies_between_the_minimum_and_the_mean() -> None:
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = soft_minimum(a, b, 0.3)
    assert bool((soft >= torch.minimum(a, b)).all()) and bool((soft <= (a + b) / 2 + 1e-12).all())
    torch.testing.assert_close(soft_minimum(a, b, 1e-3), torch.minimum(a, b), rtol=0, atol=1e-3)
    torch.testing.assert_close(soft_minimum(a, b, 1e4), (a + b) / 2, rtol=0, atol=1e-3)


def replayed(kls: list[float], rewards: list[float]) -> list[float]:
    """The thresholds of the released controller, written again from its description."""
    ema, integral, last, seen, out = None, 0.0, 0.0, [], []
    for reward in rewards:
        seen.append(reward)
        recent = seen[-50:]
        old = seen[-100:-50] if len(seen) >= 100 else recent
        if len(seen) < 50:
            factor = 1.5
        elif np.mean(recent) > np.mean(old) + 0.01:
            factor = 1.2
        else:
            factor = 1.0 if np.std(recent) < 0.02 and np.mean(recent) > 0.7 else 0.8
        u = 0.0
        if ema is None:
            ema = reward
        else:
            before, ema = ema, 0.95 * ema + 0.05 * reward
            e = ema - before - 0.001
            integral = max(-1.0, min(1.0, integral + e))
            u = 0.3 * e + 0.01 * integral + 0.05 * (e - last)
            last = e
        out.append(max(0.1, min(0.6, (0.3 + u) * factor)))
    assert len(out) == len(kls)
    return out


@pytest.mark.exact("safe-rlhf-pid")
def test_the_threshold_follows_a_recorded_trace() -> None:
    rng = np.random.default_rng(2)
    rewards = [0.1] * 30 + np.linspace(0.1, 0.9, 120).tolist() + [0.9] * 130 + rng.uniform(-3, 3, 60).tolist()
    kls = rng.exponential(0.3, len(rewards)).tolist()
    control, memory = KLControl(), KLControl().start()
    found = [control.advance(memory, kl, reward, 50) for kl, reward in zip(kls, rewards)]
    assert found == pytest.approx(replayed(kls, rewards), abs=1e-12)
    assert min(found) >= 0.1 and max(found) <= 0.6
    phases = {phase(rewards[:n], 50) for n in range(1, len(rewards))}
    assert phases == {1.5, 1.2, 1.0, 0.8}


def controlled(mode: str, batch: Batch, times: int = 8) -> list[tuple[float, torch.Tensor, float, float]]:
    """(penalty, gradient in logp, smoothed KL, threshold) of consecutive optimiser steps on the same batch."""
    part, context = built(PolicyGradient(regularise=(KLControl(mode=mode),)))
    rule = part.regularise[0]
    out = []
    for _ in range(times):
        leaf = batch["logp"].clone().requires_grad_()
        value = rule.penalty(batch.with_rows(logp=leaf), part.aggregate, context)
        (gradient,) = torch.autograd.grad(value, leaf)
        step = context.metrics
        out.append((float(value.detach()), gradient, context.memory[rule]["kl"], step["objective/kl_threshold"]))
    return out


@pytest.mark.exact("safe-rlhf-pid")
@pytest.mark.parametrize("entropy", [0.01, 10.0])
def test_the_penalty_acts_beyond_the_threshold_only(entropy: float) -> None:
    batch = make([[4, 3]], [[1, 0]], drift=0.0)
    gap = torch.full((7,), 1.5, dtype=torch.float64)
    sampled = entropy * torch.tensor(
        [1.0, 1.0, 2.0, 2.0, 0.2, 0.2, 1.1], dtype=torch.float64
    )  # of four tokens and of three
    now = torch.full((7,), 3.0, dtype=torch.float64)  # what a first pass over the batch left: no part of it
    batch = batch.with_rows(logp_ref=batch["logp"] - gap, entropy_old=sampled, entropy=now)
    gate = max(0.5, 2.0 / (entropy * (1.5 + 0.5) / 2 + 0.1))
    steps = controlled("gradient", batch)
    assert not steps[0][1].any() and steps[-1][1].any()
    for _, gradient, kl, _ in steps:
        limit = 0.45  # 0.3 x 1.5 warming up, the reward standing still: u is within 1e-3
        expected = 0.2 * max(0.0, kl - limit) * gate * gap / len(batch)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-3 * gate)
    for value, gradient, kl, _ in controlled("inert", batch):
        assert not gradient.any()
        assert value == pytest.approx(0.1 * max(0.0, kl - 0.45) ** 2 * gate, abs=2e-3 * gate)


def test_nothing_to_charge_for() -> None:
    batch = make([[1]], [[1]])
    for few in (
        batch,
        batch.select(torch.tensor([False])),
        batch.with_rows(weight=torch.zeros(1, dtype=torch.float64)),
    ):
        assert all(
            math.isfinite(value) and bool(torch.isfinite(g).all()) for value, g, *_ in controlled("gradient", few)
        )


def test_an_inert_penalty_leaves_ppo_as_it_is() -> None:
    given = case(ASYNCHRONOUS)
    inert = library_gradient(method("safe-rlhf-pid", **{"objective.regularise.1.mode": "inert"}), given)
    without = method("safe-rlhf-pid", **{"objective.regularise": [{"part": "entropy", "coefficient": 0.01}]})
    torch.testing.assert_close(inert, library_gradient(without, given), rtol=1e-12, atol=1e-15)


def test_the_double_critic_learns_the_normalised_reward() -> None:
    run = Trainer(
        BED.adapt("safe-rlhf-pid").set({"credit.optimiser": {"part": "adamw", "lr": 0.05}}), BED.world(0), 0, 40
    )
    seen: list[float] = []
    losses = []
    for _ in range(40):
        losses.append(run.step()["critic/loss"])
        seen += [t.reward for g in run.groups for t in g.trajectories]
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    memory = run.memory.states["credit"]
    assert memory["mean"] == pytest.approx(np.mean(seen))
    assert memory["square"] / memory["count"] == pytest.approx(np.var(seen))
    twins = run.weights.learners["credit"].heads
    assert not torch.equal(twins[0].weight, twins[1].weight)


# -- POISE ------------------------------------------------------------------------------------------------------------------------


def features(batch: Batch) -> np.ndarray:
    """Of every rollout, by loops: its first hidden state, the mean of all, and log length with entropies."""
    out = []
    for i in range(batch.n_sequences):
        own = (batch.sequence == i).numpy()
        hidden, entropy = batch["hidden"].double().numpy()[own], batch["entropy_old"].double().numpy()[own]
        scalars = [math.log(len(entropy)), entropy.mean(), entropy[-1], entropy.max(), entropy.min()]
        out.append([hidden[0], hidden.mean(0), np.array(scalars)])
    return np.array(out, dtype=object)


def ridge(known: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Least squares on standardised principal components (by singular values, at most 8 of a block) with penalty 0.01, as the solution
    of a stacked system; clipped to [0, 1]."""
    left, right = [], []
    for block in range(3):
        x, y = (np.stack(list(rows[:, block])) for rows in (known, asked))
        centre = x.mean(0)
        _, values, vectors = np.linalg.svd(x - centre, full_matrices=False)
        live = values[:8] > 1e-5 * values[0]
        scale = math.sqrt(len(x) - 1) / values[:8][live]
        left.append((x - centre) @ vectors[:8][live].T * scale)
        right.append((y - centre) @ vectors[:8][live].T * scale)
    z = np.concatenate(left, 1)
    stacked = np.concatenate([z, 0.1 * np.eye(z.shape[1])])
    weights = np.linalg.lstsq(stacked, np.concatenate([targets - targets.mean(), np.zeros(z.shape[1])]), rcond=None)[0]
    return np.clip(targets.mean() + np.concatenate(right, 1) @ weights, 0, 1)


def observed(seed: int, pairs: int, alone: int = 0, drift: float = 0.0) -> Batch:
    """Groups of two (and of one) whose hidden states tell something of the reward; the policy is `drift` from the step's start."""
    rng = np.random.default_rng(seed)
    lengths = [rng.integers(1, 5, 2).tolist() for _ in range(pairs)] + [[3]] * alone
    level = rng.normal(size=len(lengths))
    rewards = [(rng.random(len(group)) < 1 / (1 + np.exp(-2 * z))).astype(float) for group, z in zip(lengths, level)]
    batch = make(lengths, [r.tolist() for r in rewards], drift=drift, seed=seed)
    noise = torch.from_numpy(rng.normal(size=(len(batch), 4)))
    return batch.with_rows(hidden=noise + torch.from_numpy(level)[batch.row_group, None])


@pytest.mark.exact("poise")
@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_poises_gradient_has_the_other_rollouts_value_from_a_probe_of_earlier_steps(drift: float) -> None:
    """Before 64 rollouts the baseline is what rewards were so far; then a ridge regression, fitted to earlier steps alone, reads the
    other rollout, and a rollout without another has the mean. Targets are crossed. Clip 0.2, mean over tokens, nothing whitened."""
    poise = method("poise")
    context = Context(0, 10, 0, Memory(poise))
    known: list[np.ndarray] = []
    taught: list[float] = []
    for seed, (pairs, alone) in enumerate([(20, 0), (20, 2), (8, 1), (6, 0)]):
        batch = observed(seed, pairs, alone, drift)
        credited = poise.credit.assign(batch, context)
        reward, size = batch.sequences["reward"].tolist(), 2 * pairs
        other = [i ^ 1 for i in range(size)]
        rows = features(batch)
        mean = float(np.mean(taught)) if taught else 0.5
        value = ridge(np.concatenate(known), np.array(taught), rows) if len(taught) >= 64 else np.full(len(rows), mean)
        wanted = [reward[i] - value[other[i]] for i in range(size)] + [reward[size + k] - mean for k in range(alone)]
        found = credited.sequences["advantage"].tolist()
        assert found == pytest.approx(wanted, abs=2e-6)
        assert (len(taught) >= 64) == (len({round(r - a, 6) for r, a in zip(reward, found)}) > 2)
        slope = [
            -(ratio * wanted[i] if (ratio <= 1.2 if wanted[i] > 0 else ratio >= 0.8) else 0.0) / len(batch)
            for i, ratio in zip(batch.sequence.tolist(), (batch["logp"] - batch["logp_old"]).exp().tolist())
        ]
        logp = batch["logp"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(poise.objective.loss(credited.with_rows(logp=logp), context), logp)
        assert gradient.tolist() == pytest.approx(slope, abs=2e-6)
        known.append(rows[:size])
        taught += [reward[i] for i in other]
    nothing = batch.select(torch.zeros(batch.n_sequences, dtype=torch.bool))
    assert len(poise.credit.assign(nothing, context)) == 0
