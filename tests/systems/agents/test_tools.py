"""The exact properties of `anypo.systems.agents.tools`, as the sources state them."""

from __future__ import annotations

import math

import pytest
import torch
from making_rows import make
from making_systems import BED, ascent, rows, trainer

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.granularity.turns import TurnDiscount
from anypo.data.batch import Batch
from anypo.exact import truth
from anypo.objective import PolicyGradient, SequenceRatio, SequenceSum, Tapered
from anypo.systems import find


def chunks(ratios: list[float], turns: list[int], advantage: float) -> Batch:
    n = len(ratios)
    batch = rows([-1.0] * n, [-1.0 - math.log(r) for r in ratios], [advantage] * n)
    return batch.with_rows(turn=torch.tensor(turns), logp_behaviour=batch["logp_old"])


@pytest.mark.exact("ipa-chunk")
def test_a_chunks_return_counts_the_chunks_after_it() -> None:
    batch = make([[15, 4]]).with_rows(turn=torch.tensor([*range(15), 0, 0, 1, 1]))
    value = torch.tensor([1.0, -1.0], dtype=torch.float64)
    context = Context(0, 1, 0, Memory(Algorithm()))
    spread = TurnDiscount(gamma=0.95).spread(value, batch, context)
    assert float(spread[0]) == pytest.approx(0.95**14) and float(spread[14]) == 1.0
    assert spread[15:].tolist() == pytest.approx([-0.95, -0.95, -1.0, -1.0])
    assert torch.equal(TurnDiscount(gamma=1.0).spread(value, batch, context), batch.spread(value))
    assert TurnDiscount(gamma=0.0).spread(value, batch, context)[13:15].tolist() == [0.0, 1.0]


@pytest.mark.exact("ipa-chunk")
def test_chunk_ratios_weigh_failures_only_and_at_most_by_one() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    turns = [0, 0, 1, 1, 1]
    ratios = [0.5, 0.8, 2.0, 1.5, 3.0]
    bad = ascent(ipa, chunks(ratios, turns, -1.0))
    low = math.sqrt(0.5 * 0.8)
    assert bad.tolist() == pytest.approx([-low, -low, -1.0, -1.0, -1.0])
    swapped = ascent(ipa, chunks([0.8, 0.5, 3.0, 2.0, 1.5], turns, -1.0))
    torch.testing.assert_close(swapped, bad)
    assert ascent(ipa, chunks(ratios, turns, 1.0)).tolist() == [1.0] * 5, "imitation, whatever the old policy"
    single = ascent(ipa, chunks([0.5, 0.8, 2.0], [0, 1, 2], -1.0))
    assert single.tolist() == pytest.approx([-0.5, -0.8, -1.0]), "chunks of one token: token ratios"
    whole = PolicyGradient(ratio=SequenceRatio(), trust=Tapered(), aggregate=SequenceSum())
    one = chunks(ratios, [0] * 5, -1.0)
    torch.testing.assert_close(ascent(ipa, one), ascent(whole, one))


def test_a_chunk_far_from_its_sampler_is_left_out_whole() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    batch = chunks([1.0] * 4, [0, 0, 1, 1], 1.0)
    gap = torch.tensor([4.0, 9.0, 2.0, 9.0], dtype=torch.float64).log()
    batch = batch.with_rows(logp_behaviour=batch["logp_old"] - gap)
    assert ascent(ipa, batch).tolist() == [0.0, 0.0, 1.0, 1.0], "sqrt(36) > 5, sqrt(18) < 5"


def test_rollback_learns_what_chance_would_never_find() -> None:
    """One answer in 6^4 is right: from the solution's end backwards it is learned, from the prompt it is not."""
    bed = BED.replace(vocabulary=6, horizon=5, prompts=2, batch=2, group=8, reward="sparse", lr=0.3)
    end = {"generate": {"part": "rollback", "delimiter": "", "max_new": 5}}
    final = {}
    for name, changes in {"rollback": end, "prompt": {}}.items():
        run = trainer("ipa-chunk", changes, bed)
        given = [run.step().get("generate/given_chunks", 0.0) for _ in range(60)]
        policy, task = run.world.policy, run.world.task
        final[name] = float(truth.value(policy.log_table(), task.reward, policy.graph).mean().detach())
        if changes:
            assert given[0] == 4 and given[-1] == 0 and given == sorted(given, reverse=True)
            assert all(t.guidance == "" for group in run.groups for t in group.trajectories)
    assert final["rollback"] > 0.5 > 0.02 > final["prompt"], final


def test_a_geometric_mean_has_the_smaller_variance() -> None:
    """Var of exp(mean of n normal log ratios) / mean^2 is exp(sigma^2 / n) - 1; of the product exp(n sigma^2) - 1."""
    sigma, length, count = 0.3, 6, 20_000
    noise = sigma * torch.randn(count * length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = make([[length] * count])
    batch = batch.with_rows(logp=batch["logp_old"] + noise)
    context = Context(0, 1, 0, Memory(Algorithm()))
    for normalise, expected in ((True, math.expm1(sigma**2 / length)), (False, math.expm1(sigma**2 * length))):
        weight = SequenceRatio(normalise=normalise).log_ratio(batch, context)[::length].exp()
        assert float(weight.var() / weight.mean() ** 2) == pytest.approx(expected, rel=0.1)
