"""HAPO's sampling: a temperature per decision that follows the entropy, in the enumerable sampler and the embedded engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anypo.claims.beds.exact import Testbed
from anypo.engine.base import Heat, Request, Sampling
from anypo.engine.local.vocabulary import Vocabulary, Wish
from anypo.errors import UserError
from anypo.generate.groups.temperature import levels
from anypo.objective.trusts.entropy import entropy_level
from anypo.run.trainer import Trainer
from anypo.systems import find

HEAT = Heat(width=0.3, centre=math.log(0.5), spread=0.4, above=0.5, below=0.25)


def test_the_factor_is_one_at_the_pivot_and_bounded() -> None:
    assert HEAT.factor(np.array([0.5]))[0] == pytest.approx(1.0)
    assert HEAT.factor(np.array([1e9, 0.0])) == pytest.approx([1.3, 0.7])
    up = math.log(0.6 / 0.5) / 0.4 * 0.5
    assert HEAT.factor(np.array([0.6]))[0] == pytest.approx(1 + 0.3 * up, rel=1e-5)


@pytest.mark.parametrize("pivot", [0.5, 0.8])
def test_levels_agree_with_the_objectives_normalised_entropy(pivot: float) -> None:
    entropy = np.random.default_rng(0).exponential(0.5, 101)
    found = levels(entropy, pivot)
    assert found is not None
    sampled = Heat(1.0, **found).factor(entropy) - 1
    trained = entropy_level(torch.from_numpy(entropy), torch.ones(101, dtype=torch.bool), pivot)
    np.testing.assert_allclose(sampled, trained.numpy(), atol=1e-4)
    assert all(levels(flat, pivot) is None for flat in (np.full(5, 0.3), np.array([0.3]), np.zeros(0)))


@pytest.mark.exact("hapo-token")
def test_the_enumerable_sampler_draws_from_the_heated_distribution() -> None:
    """Against the softmax written out: log-probability and entropy of every decision, whatever else is in the call."""
    world = Testbed(vocabulary=4, horizon=3, prompts=2, spread=1.5).world(1)
    policy = world.policy
    logits = policy.logits().detach()
    requests = [
        Request(np.array([4 + k % 2]), Sampling(3, 0.9, heat=HEAT if k % 3 else None), (0, k)) for k in range(60)
    ]
    done = world.sampler.generate(requests)
    assert [d.tokens.tolist() for d in world.sampler.generate(requests[7:9])] == [d.tokens.tolist() for d in done[7:9]]
    moved = 0
    for request, completion in zip(requests, done):
        prompt, state = int(request.tokens[0]) - 4, 0
        for t, token in enumerate(completion.tokens.tolist()):
            row = logits[prompt, state]
            plain = row.log_softmax(0)
            own = -float((plain.exp() * plain).sum())
            factor = HEAT.factor(np.array([own]))[0] if request.sampling.heat else 1.0
            logp = (row / (0.9 * factor)).log_softmax(0)
            assert completion.logp[t] == pytest.approx(float(logp[token]), abs=1e-9)
            assert completion.entropy[t] == pytest.approx(-float((logp.exp() * logp).sum()), abs=1e-9)
            moved += abs(factor - 1) > 0.05
            state = int(policy.graph.child[state, token])
    assert moved > 20


def test_the_embedded_engine_draws_from_the_heated_distribution() -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 40, 6)[:, None]
    wishes = [Wish(Sampling(1, 0.8, heat=HEAT if i != 2 else None), 0.37) for i in range(6)]
    drawn = Vocabulary(None).draw(logits, wishes)
    factors = []
    for i, wish in enumerate(wishes):
        plain = logits[i].double().log_softmax(0)
        own = -float((plain.exp() * plain).sum())
        factors.append(HEAT.factor(np.array([own]))[0] if wish.sampling.heat else 1.0)
        logp = (logits[i].double() / (0.8 * factors[-1])).log_softmax(0)
        assert drawn.logp[i] == pytest.approx(float(logp[drawn.token[i]]), abs=2e-5)
        assert drawn.entropy[i] == pytest.approx(-float((logp.exp() * logp).sum()), abs=2e-4)
    assert factors[0] == pytest.approx(1.3) and factors[2] == 1.0 and min(factors) < 0.9


def test_uncertain_tokens_get_more_entropy_and_sure_ones_less() -> None:
    """The card's check at width 0.3: top quartile of entropies up, bottom quartile down, the mean within 10 %."""
    world = Testbed(vocabulary=6, horizon=3, prompts=8, spread=2.0).world(3)
    rows = world.policy.logits().detach().reshape(-1, 6)
    entropy = lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(1).numpy()
    plain = entropy(rows)
    found = levels(plain, 0.5)
    assert found is not None
    heated = entropy(rows / torch.from_numpy(Heat(0.3, **found).factor(plain))[:, None])
    low, high = np.quantile(plain, [0.25, 0.75])
    assert (heated - plain)[plain >= high].mean() > 0 > (heated - plain)[plain <= low].mean()
    assert heated.mean() == pytest.approx(plain.mean(), rel=0.1)


def test_hapos_ratio_is_that_of_the_untempered_policy() -> None:
    bed = Testbed(vocabulary=4, horizon=4, prompts=3, batch=3, spread=1.5)
    method = bed.adapt("hapo-token").set({"generate.width": 0.3, "filter.rounds": 1, "filter.survival": []})
    run = Trainer(method, bed.world(2), 2, 5)
    gaps = []
    for _ in range(2):
        run.step()
        batch = run.batch
        assert batch is not None
        gaps.append(float((batch["logp_old"].float() - batch["logp_behaviour"]).abs().max()))
        where, token = run.world.policy.rows(batch)
        assert len(where) == len(token) == len(batch)
    assert gaps[0] < 1e-5 < 0.01 < gaps[1], "the first step has no statistics yet, the second one is heated"
    assert run.weights.tempered


def test_a_server_is_refused() -> None:
    with pytest.raises(UserError, match="one temperature"):
        find("hapo-token").algorithm().set({"engine": "remote"}).check()
