"""The exact properties of `anypo.systems.objectives.ratios`, as the sources state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make
from making_systems import slope

from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.exact.graph import END
from anypo.objective import (
    Hazard,
    MinimumPrefix,
    PolicyGradient,
    PrefixProduct,
    SequenceMean,
    SequenceSum,
    SoftClip,
    TanhRatio,
    TokenRatio,
    Unclipped,
)
from anypo.systems import find


@pytest.mark.exact("minpro")
def test_minpro_on_policy_and_on_one_token() -> None:
    minpro = find("minpro").algorithm().objective
    cispo = (
        find("cispo")
        .algorithm()
        .objective.replace(ratio=TokenRatio(denominator="behaviour"), trust=SoftClip(low=1.0, high=0.28))
    )
    on = make([[4, 3]], drift=0.0)
    torch.testing.assert_close(slope(minpro, on), -on["advantage"] / 7)
    one = make([[1, 1, 1]], drift=1.0)
    torch.testing.assert_close(slope(minpro, one), slope(cispo, one))


def exhaustive(behaviour: EnumerablePolicy, policy: EnumerablePolicy, gain: torch.Tensor) -> Batch:
    """Every sequence of prompt 0, each row weighted with the sequence's probability under the behaviour policy; `gain` [n, V]
    is the advantage of every token in every state."""
    states, tokens = policy.graph.sequences()
    old, new = behaviour.log_table()[0].detach(), policy.log_table()[0]
    trajectories, columns = [], {"weight": [], "logp": [], "logp_old": [], "advantage": []}
    for i in range(len(states)):
        s, v = states[i][states[i] != END], tokens[i][states[i] != END]
        content = Tokens(np.zeros(len(s) + 1, np.int32), np.array([CONTEXT] + [ACTION] * len(s), np.int8))
        trajectories.append(Trajectory(0, content, old[s, v].numpy(), np.zeros(len(s), np.int64), sample=i))
        rows = (old[s, v].sum().exp().expand(len(s)), new[s, v], old[s, v], gain[s, v])
        for name, row in zip(columns, rows):
            columns[name].append(row)
    batch = Batch.pack([Group(0, tuple(trajectories))], torch.float64)
    return batch.with_rows(**{name: torch.cat(pieces) for name, pieces in columns.items()})


def test_prefix_weights_give_the_exact_gradient_and_token_weights_do_not() -> None:
    """All sequences of a tabular policy with 3 tokens and horizon 4, sampled by another policy; advantages are the exact Q."""
    graph = tree(3, 4)
    policy = EnumerablePolicy(graph, 1, spread=1.0, seed=1)
    behaviour = EnumerablePolicy(graph, 1, spread=1.0, seed=2)
    reward = torch.randn(1, graph.states, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = truth.policy_gradient(policy, reward, graph)
    _, q = truth.state_values(policy.log_table().detach(), reward, graph)
    batch = exhaustive(behaviour, policy, q[0])

    def error(ratio, trust) -> float:
        part, ctx = built(PolicyGradient(ratio=ratio, trust=trust, aggregate=SequenceSum()))
        loss = part.loss(batch, ctx) * batch.n_sequences
        gradient = -torch.autograd.grad(loss, policy.weight, retain_graph=True)[0].flatten()
        return float((gradient - true).norm() / true.norm())

    assert error(PrefixProduct(), Unclipped()) < 1e-10
    assert error(PrefixProduct(), SoftClip(high=1e9)) < 1e-10
    assert error(TokenRatio(), Unclipped()) > 0.1
    assert error(MinimumPrefix(), SoftClip(high=1e9)) > 1e-3, "the minimum is a biased stand-in for the product"


def test_the_spread_of_prefix_weights_explodes_and_that_of_the_minimum_does_not() -> None:
    generator = torch.Generator().manual_seed(6)
    spreads = {}
    for length in (4, 16, 64):
        batch = make([[length] * 400])
        gap = 0.3 * torch.randn(len(batch), generator=generator, dtype=torch.float64) - 0.045
        batch = batch.with_rows(logp=batch["logp_old"] + gap)
        last = batch["position"] == length - 1
        for ratio in (PrefixProduct(), MinimumPrefix()):
            part, ctx = built(PolicyGradient(ratio=ratio))
            spreads[ratio.part, length] = float(part.ratio.log_ratio(batch, ctx)[last].exp().var())
    assert spreads["prefix", 64] > 20 * spreads["prefix", 4]
    assert spreads["minimum_prefix", 64] < spreads["minimum_prefix", 4]


def multiplier(log_ratio: torch.Tensor) -> torch.Tensor:
    """M(r) by finite arithmetic on its closed form."""
    psi = 1.5 * torch.tanh(log_ratio / 1.5)
    zeta = torch.log1p(psi.exp()) ** 1.5 + (torch.log1p((-psi).exp()) / 0.8) ** 2
    return (psi - zeta).exp() / torch.cosh(log_ratio / 1.5) ** 2


@pytest.mark.exact("mhpo")
def test_the_damped_multiplier_has_its_closed_form() -> None:
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    batch = make([[len(grid)]], drift=0.0)
    batch = batch.with_rows(logp=batch["logp_old"] + grid, advantage=torch.ones(len(grid), dtype=torch.float64))
    objective = find("mhpo").algorithm().objective
    found = -loss_and_gradient(objective, batch)[1] * len(grid)
    torch.testing.assert_close(found, multiplier(grid), rtol=1e-9, atol=1e-15)
    assert float(found[120]) == pytest.approx(math.exp(-(math.log(2) ** 1.5) - (math.log(2) / 0.8) ** 2))
    assert float(found[120]) == pytest.approx(0.2651, abs=1e-4)
    assert float(found.min()) > 0 and float(found.max()) <= math.exp(1.5)
    assert bool((found[121:] > found[:120].flip(0)).all()), "falling is damped harder than rising"


def test_without_hazards_and_bound_it_is_the_plain_surrogate() -> None:
    batch = make([[4, 3]], drift=0.5)
    off = Hazard(up=1e9, down=1e9)
    wide = PolicyGradient(ratio=TanhRatio(bound=1e6), trust=off)
    plain = PolicyGradient(trust=Unclipped())
    torch.testing.assert_close(loss_and_gradient(wide, batch)[1], loss_and_gradient(plain, batch)[1], rtol=1e-6, atol=0)


def test_a_hazard_with_a_gradient_would_turn_updates_round() -> None:
    """Why zeta is detached: differentiated, it makes some good tokens less likely."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    psi = 1.5 * torch.tanh(x / 1.5)
    (slope,) = torch.autograd.grad((psi - Hazard().hazard(psi)).exp().sum(), x)
    assert bool((slope < 0).any()) and bool((multiplier(x.detach()) > 0).all())


def test_heavy_tails_move_the_gradient_least() -> None:
    generator = torch.Generator().manual_seed(3)
    norms: dict[str, list[float]] = {"mhpo": [], "clip": [], "none": []}
    objectives = {
        "mhpo": find("mhpo").algorithm().objective,
        "clip": PolicyGradient(aggregate=SequenceMean()),
        "none": PolicyGradient(trust=Unclipped(), aggregate=SequenceMean()),
    }
    batch = make([[8] * 4], drift=0.0)
    for _ in range(150):
        noise = 1.5 * torch.randn(len(batch), generator=generator, dtype=torch.float64)
        advantage = torch.randn(len(batch), generator=generator, dtype=torch.float64)
        drawn = batch.with_rows(logp=batch["logp_old"] + noise, advantage=advantage)
        for name, objective in objectives.items():
            norms[name].append(float(loss_and_gradient(objective, drawn)[1].norm()))
    peak = {name: max(values) / float(np.median(values)) for name, values in norms.items()}
    assert peak["mhpo"] < peak["clip"] and peak["mhpo"] < peak["none"]
