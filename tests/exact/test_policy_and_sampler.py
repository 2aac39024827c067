"""The enumerable policy is a policy and an engine of the loop: columns, sampling, staleness, mismatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.engine.base import Request, Sampling
from anypo.errors import UserError
from anypo.exact import EnumerablePolicy, EnumerableSampler, patterns, tree, truth
from anypo.generate.base import Independent, World


def roll(sampler, policy, task, samples=50, seed=0, **generate):
    context = Context(0, 1, seed, Memory(Algorithm()))
    asks = [Ask(j, samples) for j in range(len(task))]
    groups = Independent(max_new=policy.graph.horizon, **generate).rollout(asks, World(task, policy, sampler), context)
    return Batch.pack(groups, torch.float64)


def setup(lag=0, **options):
    graph = tree(4, 3)
    policy = EnumerablePolicy(graph, 2, "linear", 0.8, 1)
    return policy, EnumerableSampler(policy, lag, **options), patterns(graph, 2)


def moving(policy, sampler, steps):
    """The loop's view of `steps` updates that change the weights visibly."""
    for _ in range(steps):
        sampler.forget()
        with torch.no_grad():
            policy.weight.add_(0.1 * torch.arange(policy.weight.numel()).reshape(policy.weight.shape).cos())
        policy.version += 1
    sampler.forget()


def test_what_was_sampled_is_what_is_trained():
    policy, sampler, task = setup()
    batch = roll(sampler, policy, task)
    filled = policy.fill(batch, {"logp", "entropy", "hidden"}, grad=False)
    assert torch.allclose(filled["logp"], batch["logp_behaviour"], atol=1e-12)
    assert torch.allclose(filled["entropy"], batch["entropy_behaviour"], atol=1e-12)
    assert filled["hidden"].shape == (len(batch), policy.weight.shape[0])
    assert bool(batch.sequences["truncated"].any())  # some answers run into the horizon


@pytest.mark.parametrize(
    "heat, top_k, top_p, min_p", [(0.7, 0, 1.0, 0.0), (1.3, 2, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.4)]
)
def test_temperature_and_truncation_are_undone_exactly(heat, top_k, top_p, min_p):
    policy, sampler, task = setup()
    batch = roll(sampler, policy, task, temperature=heat, top_k=top_k, top_p=top_p, min_p=min_p)
    logp = policy.fill(batch, {"logp"}, grad=False)["logp"]
    assert torch.allclose(logp, batch["logp_behaviour"], atol=1e-12)
    if top_k or top_p < 1 or min_p:
        assert bool((batch["log_mass"] < -1e-3).any())
        assert bool((batch["logp_behaviour"] <= 1e-12).all())


def test_frequencies_are_the_probabilities():
    policy, sampler, task = setup()
    draws = 6000
    batch = roll(sampler, policy, task, samples=draws)
    _states, tokens = policy.graph.sequences()
    known = {policy.decode(t[t >= 0].numpy()): k for k, t in enumerate(tokens)}
    exact = truth.sequence_logp(policy.log_table().detach(), policy.graph).exp()
    for prompt in range(2):
        counts = np.zeros(len(tokens))
        for trajectory in batch.trajectories[prompt * draws : (prompt + 1) * draws]:
            counts[known[trajectory.text]] += 1
        p = exact[prompt].numpy()
        chi = ((counts - draws * p) ** 2 / (draws * p)).sum()
        assert chi < len(p) + 5 * np.sqrt(2 * len(p))
    mean = batch.sequences["reward"].reshape(2, draws).mean(1)
    assert torch.allclose(mean, truth.value(policy.log_table().detach(), task.reward, policy.graph), atol=0.03)


def test_a_request_does_not_depend_on_its_company():
    policy, sampler, _ = setup()
    prompt = policy.encode(({"content": "p1"},))
    requests = [Request(prompt, Sampling(max_new=3), (5, k)) for k in range(20)]
    together = sampler.generate(requests)
    alone = [sampler.generate([request])[0] for request in requests]
    assert all(np.array_equal(a.tokens, b.tokens) and np.array_equal(a.logp, b.logp) for a, b in zip(together, alone))
    short = sampler.generate([Request(prompt, Sampling(max_new=1), (5, 3)), requests[3]])
    assert short[0].tokens[0] == short[1].tokens[0] and len(short[0].tokens) == 1


def test_greedy_takes_the_mode_and_prefixes_are_continued():
    policy, sampler, _ = setup()
    prompt = policy.encode(({"content": "p0 a"},))  # a shown prefix
    completion = sampler.generate([Request(prompt, Sampling(max_new=3, temperature=0.0), (0,))])[0]
    table = policy.log_table().detach()[0]
    state = int(policy.graph.child[0, 1])
    for token in completion.tokens.tolist():
        assert token == int(table[state].argmax())
        state = int(policy.graph.child[state, token])
    assert np.allclose(completion.logp, 0.0)
    assert policy.decode(np.array([1, 3, 0])) == "ac"


def test_lag_samples_with_old_weights_and_says_so():
    policy, sampler, task = setup(lag=2)
    moving(policy, sampler, 4)
    batch = roll(sampler, policy, task)
    assert set(batch["version"].tolist()) == {2}
    now = policy.fill(batch, {"logp"}, grad=False)["logp"]
    assert float((now - batch["logp_behaviour"]).abs().max()) > 0.01
    fresh = setup()[0]
    moving(fresh, EnumerableSampler(fresh), 2)
    assert torch.allclose(fresh.fill(batch, {"logp"}, grad=False)["logp"], batch["logp_behaviour"], atol=1e-12)


def test_mixed_and_partial_versions():
    policy, sampler, task = setup(lag=2, versions="mixed")
    moving(policy, sampler, 4)
    batch = roll(sampler, policy, task)
    first = [int(t.version[0]) for t in batch.trajectories]
    assert set(first) == {2, 3, 4} and all(len(set(t.version.tolist())) == 1 for t in batch.trajectories)
    policy, sampler, task = setup(lag=2, versions="partial")
    moving(policy, sampler, 4)
    for trajectory in roll(sampler, policy, task).trajectories:
        assert trajectory.version.tolist() == [2, 3, 4][: len(trajectory)]


def test_noise_is_a_mismatch_of_the_engine_only():
    policy, sampler, task = setup(noise=0.3)
    batch = roll(sampler, policy, task, samples=200)
    gap = policy.fill(batch, {"logp"}, grad=False)["logp"] - batch["logp_behaviour"]
    assert not sampler.exact and 0.1 < float(gap.std()) < 0.6
    assert torch.allclose(roll(sampler, policy, task, samples=200)["logp_behaviour"], batch["logp_behaviour"])


def test_frozen_blend_and_state():
    policy, _, _ = setup()
    reference = policy.frozen()
    assert not any(p.requires_grad for p in reference.parameters())
    start = policy.weight.detach().clone()
    with torch.no_grad():
        policy.weight.add_(1.0)
    assert torch.equal(reference.weight, start)
    reference.blend(policy, 0.75)
    assert torch.allclose(reference.weight, start + 0.25)
    reference.load_state_dict(policy.state_dict())
    assert torch.equal(reference.weight, policy.weight)


def test_bad_input_is_refused():
    policy, sampler, _ = setup()
    with pytest.raises(UserError, match="cannot read"):
        policy.encode(({"content": "p0 xyz"},))
    with pytest.raises(UserError, match="prompt token"):
        sampler.generate([Request(np.array([1]), Sampling(), (0,))])
    with pytest.raises(UserError, match="stop"):
        sampler.generate([Request(np.array([4]), Sampling(stop=("a",)), (0,))])
