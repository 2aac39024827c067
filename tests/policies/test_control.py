"""Control policies: distributions against closed forms, columns against recorded actions, initialisation, statistics."""

import math

import numpy as np
import pytest
import torch

from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.policies import CategoricalPolicy, GaussianPolicy, ValueNetwork
from anypo.policies.base import Learner
from anypo.policies.control.networks import ObservationNorm


def gaussian(**options):
    return GaussianPolicy(3, 2, hidden=(16,), log_std=-0.5, seed=1, **options)


def categorical(**options):
    return CategoricalPolicy(3, 5, hidden=(16, 16), seed=1, **options)


def rollouts(policy, lengths=(4, 1, 7), seed=0) -> Batch:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    out = []
    for n in lengths:
        observations = rng.normal(size=(n, 3)).astype(np.float32)
        actions, logp = policy.act(observations, generator)
        steps = Steps(observations, actions, rng.normal(size=3).astype(np.float32), terminated=False)
        out.append(Trajectory(prompt=0, content=steps, logp=logp, version=np.zeros(n, dtype=np.int64)))
    return Batch.of(out, [0] * len(out), 1)


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_columns_are_those_of_the_acting_policy(make):
    policy = make()
    assert isinstance(policy, Learner)
    batch = rollouts(policy)
    columns = policy.fill(batch, {"logp", "entropy"}, grad=True)
    torch.testing.assert_close(columns["logp"], batch["logp_behaviour"])
    assert columns["logp"].requires_grad and not policy.fill(batch, {"logp"}, grad=False)["logp"].requires_grad
    columns["logp"].sum().backward()
    assert all(p.grad is not None for p in policy.parameters())
    picked = batch.select(torch.tensor([2, 0]))
    torch.testing.assert_close(policy.fill(picked, {"logp"}, False)["logp"], picked["logp_behaviour"])
    assert policy.fill(rollouts(policy, ()), {"logp"}, False)["logp"].shape == (0,)


def test_gaussian_closed_forms():
    policy = gaussian()
    batch = rollouts(policy)
    content = [t.content for t in batch.trajectories]
    mean = policy(torch.from_numpy(np.concatenate([c.observations for c in content]))).detach().numpy()
    z = (np.concatenate([c.actions for c in content]) - mean) / math.exp(-0.5)
    wanted = (-0.5 * z**2 + 0.5 - 0.5 * math.log(2 * math.pi)).sum(1)
    columns = policy.fill(batch, {"logp", "entropy"}, grad=False)
    np.testing.assert_allclose(columns["logp"], wanted, atol=1e-5)
    np.testing.assert_allclose(columns["entropy"], 2 * (0.5 * math.log(2 * math.pi * math.e) - 0.5), atol=1e-5)


def test_sampling_has_the_moments_of_the_distribution():
    observation = np.tile(np.array([[0.3, -1.0, 2.0]], dtype=np.float32), (40000, 1))
    policy = gaussian()
    actions, _ = policy.act(observation, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(actions.mean(0), policy.best(observation)[0], atol=0.02)
    np.testing.assert_allclose(actions.std(0), math.exp(-0.5), atol=0.02)
    policy = categorical()
    torch.nn.init.normal_(policy.body[-1].bias, generator=torch.Generator().manual_seed(1))
    actions, _ = policy.act(observation, torch.Generator().manual_seed(0))
    probability = policy.distribution(torch.from_numpy(observation[:1])).probs[0].detach().numpy()
    np.testing.assert_allclose(np.bincount(actions, minlength=5) / len(actions), probability, atol=0.012)
    assert policy.best(observation)[0] == probability.argmax()


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_acting_is_a_function_of_the_generator(make):
    observations = np.ones((6, 3), dtype=np.float32)
    first, second, other = (make().act(observations, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_initialisation_is_orthogonal_and_the_first_policy_nearly_uniform():
    policy = categorical()
    first = policy.body[0].weight.detach()
    torch.testing.assert_close(first.T @ first, 2.0 * torch.eye(3), atol=1e-5, rtol=0)
    batch = rollouts(policy)
    assert (policy.fill(batch, {"entropy"}, False)["entropy"] - math.log(5)).abs().max() < 1e-3
    value = ValueNetwork(3, (16,), seed=1)
    last = value.body[-1].weight.detach()
    torch.testing.assert_close(last @ last.T, torch.eye(1), atol=1e-5, rtol=0)


def test_values():
    batch = rollouts(gaussian())
    network = ValueNetwork(3, (16,), normalise=True)
    assert isinstance(network, Learner)
    observations = np.concatenate([t.content.observations for t in batch.trajectories])
    np.testing.assert_allclose(network.fill(batch, {"value"}, False)["value"], network.values(observations), atol=1e-6)
    assert network.fill(batch, {"value"}, True)["value"].requires_grad


def test_observation_statistics_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    blocks = [torch.from_numpy(rng.normal(3.0, 2.0, size=(n, 3))) for n in (1, 5, 0, 300)]
    norm = ObservationNorm(3)
    assert torch.equal(norm(torch.full((1, 3), 0.5)), torch.full((1, 3), 0.5).clamp(-10, 10))  # the identity before any
    for block in blocks:
        norm.observe(block)
    everything = torch.cat(blocks)
    torch.testing.assert_close(norm.mean, everything.mean(0))
    torch.testing.assert_close(norm.var, everything.var(0, unbiased=False))
    assert norm(torch.full((1, 3), 1e9)).tolist() == [[10.0, 10.0, 10.0]]


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_statistics_change_nothing_until_they_are_updated(make):
    policy = make(normalise=True)
    batch = rollouts(policy)
    torch.testing.assert_close(policy.fill(batch, {"logp"}, False)["logp"], batch["logp_behaviour"])
    policy.observe(np.concatenate([t.content.observations for t in batch.trajectories]))
    twin, frozen = make(normalise=True), policy.frozen()
    twin.load_state_dict(policy.state_dict())
    for copy in (twin, frozen):
        assert torch.equal(copy.fill(batch, {"logp"}, False)["logp"], policy.fill(batch, {"logp"}, False)["logp"])
    assert not any(p.requires_grad for p in frozen.parameters())


def test_blend_is_the_moving_average():
    policy, average = gaussian(), gaussian().frozen()
    start = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)
    average.blend(policy, 0.9)
    for mine, old, new in zip(average.parameters(), start, policy.parameters()):
        torch.testing.assert_close(mine, 0.9 * old + 0.1 * new)


def test_tokens_are_refused():
    from policies_making import batch_of, rollout

    with pytest.raises(TypeError, match="observations"):
        gaussian().fill(batch_of([rollout(np.random.default_rng(0), [2, 2], 9)]), {"logp"}, False)
