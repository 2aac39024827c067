"""The exact quantities agree with brute-force enumeration, and the policy gradient with finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anypo.errors import UserError
from anypo.exact import EnumerablePolicy, chain, patterns, tree, truth
from anypo.exact.graph import END, uniforms

GRAPHS = [tree(4, 3), tree(3, 1), chain(3, 4)]


@pytest.mark.parametrize("graph", GRAPHS, ids=["tree", "one-step", "chain"])
@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_values_entropy_and_kl_are_sums_over_sequences(graph, kind):
    policy, other = (EnumerablePolicy(graph, 2, kind, 1.0, seed).log_table().detach() for seed in (1, 2))
    reward = torch.rand(policy.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = truth.sequence_logp(policy, graph), truth.sequence_logp(other, graph)
    assert torch.allclose(p.exp().sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12)
    expected = (p.exp() * truth.sequence_reward(reward, graph)).sum(1)
    assert torch.allclose(truth.value(policy, reward, graph), expected, atol=1e-12)
    assert torch.allclose(truth.entropy(policy, graph), -(p.exp() * p).sum(1), atol=1e-12)
    assert torch.allclose(truth.kl(policy, other, graph), (p.exp() * (p - q)).sum(1), atol=1e-12)


def test_sequences_are_all_and_distinct():
    graph = tree(3, 3)
    states, tokens = graph.sequences()
    assert len(tokens) == 1 + 2 + 4 + 8  # EOS after 0, 1 or 2 letters, or three letters
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens)
    assert bool(((states == END) == (tokens == END)).all())


@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_policy_gradient_is_the_derivative(kind):
    graph = tree(3, 3)
    task = patterns(graph, 2)
    policy = EnumerablePolicy(graph, 2, kind, 1.0, 3)
    gradient = truth.policy_gradient(policy, task.reward, graph)
    generator = torch.Generator().manual_seed(0)
    start = policy.weight.detach().clone()
    for _ in range(3):
        direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        values = []
        for side in (1e-5, -1e-5):
            with torch.no_grad():
                policy.weight.copy_(start + side * direction)
                values.append(float(truth.value(policy.log_table(), task.reward, graph).mean()))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient @ direction.flatten()), rel=1e-6)


def test_policy_gradient_theorem():
    """The analytic form visits x pi x Q, contracted with d log pi, is autograd's gradient of the value."""
    graph = tree(4, 3)
    task = patterns(graph, 3)
    policy = EnumerablePolicy(graph, 3, "linear", 1.0, 5)
    table = policy.log_table()
    weights = truth.token_gradient(table.detach(), task.reward, graph)
    (found,) = torch.autograd.grad((weights * table).sum(), [policy.weight])
    assert torch.allclose(found.flatten(), truth.policy_gradient(policy, task.reward, graph), atol=1e-12)


def test_rewards_by_text_and_by_table_agree():
    graph = tree(4, 4)
    policy = EnumerablePolicy(graph, 4)
    _states, tokens = graph.sequences()
    for kind in ("binary", "graded", "sparse"):
        task = patterns(graph, 4, kind)
        table = truth.sequence_reward(task.reward, graph)
        for row in range(0, len(tokens), 7):
            text = policy.decode(tokens[row][tokens[row] != END].numpy())
            for prompt in range(4):
                assert task.score(prompt, text) == pytest.approx(float(table[prompt, row]))
        best = table.max(1).values
        assert torch.allclose(best, torch.ones(4, dtype=torch.float64))
        assert all(task.score(j, task.targets[j]) == pytest.approx(1.0) for j in range(4))


def test_difficulties_fall_and_sparse_is_sparse():
    graph = tree(4, 4)
    uniform = torch.full((4, graph.states, 4), -np.log(4.0), dtype=torch.float64)
    binary = truth.value(uniform, patterns(graph, 4).reward, graph)
    assert binary.tolist() == pytest.approx([0.5, 0.25, 0.125, 0.0625])
    sparse = patterns(graph, 4, "sparse")
    assert truth.value(uniform, sparse.reward, graph).tolist() == pytest.approx([4.0**-3] * 4)


def test_a_chain_refuses_rewards_it_cannot_remember():
    with pytest.raises(UserError, match="tree"):
        patterns(chain(3, 4), 2, "binary")
    with pytest.raises(UserError, match="unknown reward"):
        patterns(tree(3, 2), 2, "banary")  # type: ignore[arg-type]


def test_uniforms_depend_on_their_own_seed_and_place_only():
    seeds = [(1, 2, 3), (1, 2, 4), (1, 2), (2, 2, 3)]
    table = uniforms(seeds, 6)
    assert np.array_equal(uniforms(seeds[::-1], 4)[::-1], table[:, :4])
    many = uniforms([(0, k) for k in range(4000)], 4)
    assert abs(many.mean() - 0.5) < 0.01 and abs(many.var() - 1 / 12) < 0.003
    assert np.abs(np.corrcoef(many.T) - np.eye(4)).max() < 0.06
    assert (many >= 0).all() and (many < 1).all()
