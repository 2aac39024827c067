"""Policies that act through chains: densities against their own derivation, rows against what happened, training and resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.critics.gae import GAE
from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.generate.base import World
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.policies.base import Learner
from anypo.policies.classes import PolicyClass, Wanted
from anypo.policies.generative.chain import ChainPolicy
from anypo.run.acting import Acting
from anypo.run.settings.presets import preset_of, suited
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymEpisode, GymTask

INNER, LOW, HIGH = 3, np.array([-2.0, 0.0]), np.array([2.0, 0.5])


def chain(seed: int = 1, **options) -> ChainPolicy:
    return ChainPolicy(3, LOW, HIGH, INNER, (8,), seed, **options).double()


def moved(policy: ChainPolicy, seed: int = 0) -> ChainPolicy:
    """The policy after a change of all its weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return policy


def rollouts(policy: ChainPolicy, lengths=(2, 1, 3), seed: int = 0) -> Batch:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    out = []
    for n in lengths:
        seen = rng.normal(size=(n, 3))
        actions, logp, extra = policy.act(seen, generator)
        flat = {name: array.reshape(n * INNER, *array.shape[2:]) for name, array in extra.items()}
        content = Steps(np.repeat(seen, INNER, 0), actions.reshape(n * INNER, 2), rng.normal(size=3), False, flat)
        turn = np.repeat(np.arange(n), INNER)
        version = np.zeros(n * INNER, dtype=np.int64)
        out.append(Trajectory(prompt=0, content=content, logp=logp.ravel(), version=version, turn=turn))
    return Batch.of(out, [0] * len(out), 1, torch.float64)


def derived(policy: ChainPolicy, batch: Batch) -> np.ndarray:
    """log p(x_{k-1} | x_k, s) row by row: the action that the network stands for, then Bayes' rule in the forward process."""
    weights = {name: value.detach().numpy() for name, value in policy.state_dict().items()}
    left = np.cos((np.arange(INNER + 1) / INNER + 0.008) / 1.008 * np.pi / 2) ** 2
    left = np.maximum(left / left[0], 0)
    for k in range(1, INNER + 1):
        left[k] = max(left[k], 0.001 * left[k - 1])
    out = []
    columns = (batch[name].numpy() for name in ("observation", "before", "action", "inner"))
    for seen, x, after, inner in zip(*columns):
        k = INNER - int(inner)
        given = np.concatenate([seen, x, np.eye(INNER)[int(inner)]])
        hidden = np.tanh(weights["body.0.weight"] @ given + weights["body.0.bias"])
        v = weights["body.2.weight"] @ hidden + weights["body.2.bias"]
        clean = np.sqrt(left[k]) * x - np.sqrt(1 - left[k]) * v
        alpha = left[k] / left[k - 1]
        if k == 1:
            mean = clean
        else:  # x_{k-1} ~ N(sqrt(abar) x_0, 1 - abar), x_k ~ N(sqrt(alpha) x_{k-1}, 1 - alpha): precisions add up
            prior, seen_again = 1 / (1 - left[k - 1]), alpha / (1 - alpha)
            mean = (prior * np.sqrt(left[k - 1]) * clean + seen_again * x / np.sqrt(alpha)) / (prior + seen_again)
        std = np.exp(weights["log_std"][int(inner)])
        out.append(-(((after - mean) / std) ** 2 / 2 + np.log(std) + np.log(2 * np.pi) / 2).sum())
    return np.array(out)


def test_densities_are_those_of_denoising_steps_before_and_after_a_change() -> None:
    policy = chain()
    assert isinstance(policy, Learner)
    batch = rollouts(policy)
    for weights in (policy, moved(policy)):
        found = weights.fill(batch, {"logp"}, grad=False)["logp"].numpy()
        np.testing.assert_allclose(found, derived(weights, batch), rtol=1e-9, atol=1e-10)
    assert np.abs(found - batch["logp_behaviour"].numpy()).max() > 0.1


def test_what_sampled_is_what_is_trained() -> None:
    policy = moved(chain(normalise=True))
    policy.observe(np.random.default_rng(1).normal(3.0, 2.0, (50, 3)))
    batch = rollouts(policy)
    torch.testing.assert_close(policy.fill(batch, {"logp"}, False)["logp"], batch["logp_behaviour"])
    picked = batch.select(torch.tensor([2, 0]))
    torch.testing.assert_close(policy.fill(picked, {"logp"}, False)["logp"], picked["logp_behaviour"])
    for other in (policy.frozen(), copy.deepcopy(policy)):
        assert torch.equal(other.fill(batch, {"logp"}, False)["logp"], policy.fill(batch, {"logp"}, False)["logp"])
    critic = policy.critic(0)
    value = critic.fill(batch, {"value"}, False)["value"]
    assert critic.norm is policy.norm and bool((value[0] == value[1]) & (value[0] == value[2]))


def test_gradients_are_finite_differences() -> None:
    policy = moved(chain())
    batch = rollouts(policy)
    factor = torch.from_numpy(np.random.default_rng(3).normal(size=len(batch)))

    def loss() -> torch.Tensor:
        columns = policy.fill(batch, {"logp", "entropy"}, grad=True)
        return (factor * (columns["logp"] + 0.5 * columns["entropy"])).sum()

    loss().backward()
    for name, parameter in policy.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        slope = float((parameter.grad * direction).sum())
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.add_(sign * 1e-6 * direction)
                ends.append(float(loss().detach()))
                parameter.sub_(sign * 1e-6 * direction)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6), name
        assert abs(slope) > 1e-3, name


@pytest.mark.parametrize("inner", [1, 2, 5, 20])
def test_a_new_policy_is_standard_normal(inner: int) -> None:
    """With v = 0 every inner step keeps the variance at 1: x_{k-1} = keep x_k + sigma noise."""
    policy = ChainPolicy(3, LOW, HIGH, inner, (8,))
    torch.testing.assert_close(
        policy.keep**2 + (2 * policy.log_std[:, 0].double()).exp(), torch.ones(inner, dtype=torch.float64),
        rtol=1e-5, atol=0,
    )  # fmt: skip
    torch.nn.init.zeros_(policy.body[-1].weight)
    actions, _, _ = policy.act(np.zeros((20_000, 3)), torch.Generator().manual_seed(0))
    np.testing.assert_allclose(actions[:, -1].mean(0), 0, atol=0.03)
    np.testing.assert_allclose(actions[:, -1].std(0), 1, atol=0.02)
    assert not policy.best(np.ones((1, 3))).any()


def test_the_best_action_is_the_chain_without_noise() -> None:
    policy = moved(chain())
    with torch.no_grad():
        policy.log_std.fill_(-40.0)
    seen = np.random.default_rng(0).normal(size=(4, 3))
    ends, _, extra = policy.act(seen, torch.Generator().manual_seed(0))
    x = torch.zeros(4, 2, dtype=torch.float64)
    for inner in range(INNER):
        x = policy.step(torch.from_numpy(seen), x, torch.full((4,), inner)).mean
    np.testing.assert_allclose(policy.best(seen), x.detach().numpy())
    assert not np.allclose(ends[:, -1], policy.best(seen)), "noise enters where the chain begins, too"
    assert np.array_equal(extra["before"][:, 1:], ends[:, :-1])


def test_weights_come_back_from_a_folder(tmp_path) -> None:
    policy, other = moved(chain(normalise=True)), chain(seed=5, normalise=True)
    policy.observe(np.ones((3, 3)))
    policy.save(tmp_path)
    other.load(tmp_path)
    seen = np.ones((2, 3))
    assert np.array_equal(policy.best(seen), other.best(seen))


# -- rows ---------------------------------------------------------------------------------------------------------------------


def trainer(system: str = "ppo", total: int = 4, **policy) -> Trainer:
    """A method of text in the surroundings that it gets in an environment, small."""
    algorithm = suited(find(system).algorithm(), preset_of(find(system).algorithm(), "", acts=True))
    small = {"generate.environments": 2, "generate.steps": 6, "update.epochs": 2, "update.minibatches_per_epoch": 2}
    algorithm = algorithm.set({**small, "policy": {"part": "chain", "inner": INNER, "hidden": [8], **policy}})
    task = GymTask("Pendulum-v1")
    return Trainer(algorithm, World(task, algorithm.policy.build(Wanted(task, seed=1)), Acting()), 3, total)


def test_inner_steps_are_decisions_and_the_environment_sees_the_last(monkeypatch) -> None:
    run = trainer()
    heard, step = [], GymEpisode.step
    monkeypatch.setattr(GymEpisode, "step", lambda self, action: heard.append(action.array) or step(self, action))
    context = Context(0, 4, 3, run.memory)
    generator = run.algorithm.generate
    assert isinstance(generator, EnvironmentSteps)
    groups = generator.rollout([], run.world, context)
    batch = Batch.pack(groups)
    steps = len(batch) // INNER
    assert len(batch) == 2 * 6 * INNER == len(heard) * INNER
    assert batch["inner"].tolist() == list(range(INNER)) * steps
    assert batch["turn"].tolist() == [t for _ in groups for t in range(6) for _ in range(INNER)]
    by_step = lambda name: batch[name].reshape(2, 6, INNER, -1)
    assert torch.equal(by_step("before")[:, :, 1:], by_step("action")[:, :, :-1])
    assert bool((by_step("step_reward")[:, :, :-1] == 0).all()) and bool((by_step("step_reward")[:, :, -1] < 0).all())
    assert bool((by_step("observation") == by_step("observation")[:, :, :1]).all())
    assert torch.equal(by_step("observation_next")[:, :, :-1], by_step("observation")[:, :, 1:])
    assert torch.equal(by_step("observation_next")[:, :-1, -1], by_step("observation")[:, 1:, 0])
    sent = run.world.policy.sent(by_step("action")[:, :, -1].transpose(0, 1).reshape(-1, 1).numpy())
    np.testing.assert_array_equal(np.stack(heard), sent)
    assert (np.abs(sent) <= 2).all() and np.abs(sent).max() == 2, "clipped to the bounds"
    filled = run.weights.fill(batch)
    torch.testing.assert_close(filled["logp_old"], batch["logp_behaviour"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("system", ["reinforce", "grpo", "ppo"])
def test_objectives_train_on_the_rows_and_resume_exactly(system: str) -> None:
    whole, first = trainer(system), trainer(system)
    start = [p.detach().clone() for p in first.world.policy.parameters()]
    measured = [whole.step() for _ in range(3)]
    first.step()
    again = trainer(system)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        again.step()
    for ours, theirs, before in zip(again.world.policy.parameters(), whole.world.policy.parameters(), start):
        assert torch.equal(ours, theirs) and not torch.equal(theirs, before)
    assert all(np.isfinite(value) for row in measured for value in row.values())
    assert measured[0]["tokens/trained"] == 2 * 6 * INNER


# -- credit -------------------------------------------------------------------------------------------------------------------


def credited(batch: Batch, **fields) -> Batch:
    algorithm = Algorithm.from_dict(Algorithm(credit=GAE(whiten=False, truncated="bootstrap", **fields)).dump())
    return algorithm.credit.assign(batch, Context(0, 1, 0, Memory(algorithm)))


def valued(batch: Batch, seed: int = 0) -> Batch:
    """Values by turn, and rewards at the last decision of every turn."""
    rng = np.random.default_rng(seed)
    turn, turns = batch.units("turn")
    value = torch.from_numpy(rng.normal(size=turns + 1))
    last = batch["inner"] == INNER - 1
    reward = torch.from_numpy(rng.normal(size=len(batch))) * last
    total = torch.zeros(batch.n_sequences, dtype=torch.float64).index_add(0, batch.sequence, reward)
    following = torch.where(last, value[turn + 1], value[turn])
    rows = {"value_old": value[turn], "value_next_old": following, "step_reward": reward}
    return batch.with_rows(**rows).with_sequences(reward=total)


def test_credit_by_turn_is_gae_over_steps_of_the_environment() -> None:
    """A_t by loops over steps; inner step j of K gets inner^(K - 1 - j) A_t, and the critic the return of the step."""
    gamma, lam, inner = 0.9, 0.8, 0.7
    batch = valued(rollouts(chain()))
    out = credited(batch, unit="turn", gamma=gamma, lam=lam, inner=inner)
    place = 0
    for sequence in range(batch.n_sequences):
        rows = (batch.sequence == sequence).nonzero().flatten()[INNER - 1 :: INNER]
        value, following, reward = (batch[n][rows].tolist() for n in ("value_old", "value_next_old", "step_reward"))
        delta = [r + gamma * w - v for r, w, v in zip(reward, following, value)]
        for t in range(len(delta)):
            expected = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(delta)))
            for j in range(INNER):
                assert float(out["advantage"][place]) == pytest.approx(inner ** (INNER - 1 - j) * expected)
                assert float(out["return"][place]) == pytest.approx(value[t] + expected)
                place += 1
    assert place == len(batch)


def test_turns_of_one_decision_are_decisions() -> None:
    batch = valued(rollouts(chain()))
    single = batch.with_rows(turn=batch["position"])
    for name in ("advantage", "return"):
        assert torch.equal(credited(single, unit="turn", gamma=0.9)[name], credited(single, gamma=0.9)[name])


def test_every_policy_class_is_built_from_its_dump() -> None:
    part = PolicyClass.parse({"part": "chain", "inner": 2})
    assert part.dump()["inner"] == 2 and part.build(Wanted(GymTask("Pendulum-v1"))).log_std.shape == (2, 1)
