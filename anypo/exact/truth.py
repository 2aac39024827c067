"""What is true of an enumerable policy: values, the policy gradient, visits, entropy, divergence. Sums, no samples.

`logp` tables are [P, n, V] (prompts, states, tokens) in float64 and may carry a gradient; `reward` tables have the same shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anypo.exact.graph import END, StateGraph
from anypo.exact.policy import EnumerablePolicy


def state_values(logp: Tensor, reward: Tensor, graph: StateGraph) -> tuple[Tensor, Tensor]:
    """V [P, n] and Q [P, n, V]: expected reward from each state, and after each token (that token's reward included)."""
    v_layers: list[Tensor] = []
    q_layers: list[Tensor] = []
    below = logp.new_zeros(len(logp), 1)
    for layer, start in zip(reversed(graph.layers()), reversed(graph.first[1:])):
        child = graph.child[layer]
        index = torch.where(child == END, torch.full_like(child, below.shape[1] - 1), child - start)
        q = reward[:, layer] + below[:, index]
        v = (logp[:, layer].exp() * q).sum(-1)
        v_layers.insert(0, v)
        q_layers.insert(0, q)
        below = torch.cat([v, v.new_zeros(len(v), 1)], 1)
    return torch.cat(v_layers, 1), torch.cat(q_layers, 1)


def value(logp: Tensor, reward: Tensor, graph: StateGraph) -> Tensor:
    """Expected reward of each prompt, [P]."""
    return state_values(logp, reward, graph)[0][:, 0]


def visits(logp: Tensor, graph: StateGraph) -> Tensor:
    """Probability that a sequence passes through each state, [P, n]."""
    chance = logp.new_zeros(len(logp), graph.states + 1)
    chance[:, 0] = 1.0
    for layer in graph.layers():
        flow = chance[:, layer, None] * logp[:, layer].exp()
        target = graph.child[layer].reshape(-1)
        target = torch.where(target == END, torch.full_like(target, graph.states), target)
        chance = chance.index_add(1, target, flow.reshape(len(logp), -1))
    return chance[:, :-1]


def token_gradient(logp: Tensor, reward: Tensor, graph: StateGraph) -> Tensor:
    """d J / d log pi before normalisation, i.e. visits x pi x Q: contracted with d logp it is the policy gradient of the mean
    over prompts (policy gradient theorem, Sutton et al. 1999), [P, n, V]."""
    _, q = state_values(logp, reward, graph)
    return visits(logp, graph)[:, :, None] * logp.exp() * q / len(logp)


def entropy(logp: Tensor, graph: StateGraph) -> Tensor:
    """Entropy of the whole sequence in nats, [P]."""
    own = -(logp.exp() * logp).sum(-1)
    return (visits(logp, graph) * own).sum(1)


def token_entropy(logp: Tensor, graph: StateGraph) -> Tensor:
    """Expected entropy per decision in nats, [P]."""
    seen = visits(logp, graph)
    own = -(logp.exp() * logp).sum(-1)
    return (seen * own).sum(1) / seen.sum(1)


def kl(logp: Tensor, other: Tensor, graph: StateGraph) -> Tensor:
    """KL(p || q) between sequence distributions in nats, [P]."""
    own = (logp.exp() * (logp - other)).sum(-1)
    return (visits(logp, graph) * own).sum(1)


def sequence_logp(logp: Tensor, graph: StateGraph) -> Tensor:
    """log probability of every sequence of `StateGraph.sequences`, [P, M]."""
    states, tokens = graph.sequences()
    taken = states != END
    each = logp[:, states.clamp(min=0), tokens.clamp(min=0)]
    return (each * taken).sum(-1)


def sequence_reward(reward: Tensor, graph: StateGraph) -> Tensor:
    """Reward of every sequence of `StateGraph.sequences`, [P, M]."""
    states, tokens = graph.sequences()
    return (reward[:, states.clamp(min=0), tokens.clamp(min=0)] * (states != END)).sum(-1)


def policy_gradient(policy: EnumerablePolicy, reward: Tensor, graph: StateGraph) -> Tensor:
    """The true gradient of the mean expected reward over prompts with respect to all parameters, flat [D]."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    objective = value(policy.log_table(), reward, graph).mean()
    found = torch.autograd.grad(objective, parameters)
    return torch.cat([g.flatten() for g in found])
