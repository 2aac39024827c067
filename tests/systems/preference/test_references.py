"""The exact properties of `anypo.systems.preference.references`, as the sources state them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from making_rows import make
from making_systems import ascent, trainer

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.select.leftover import Leftover
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.objective import PolicyGradient, ScoreFunction, SequenceSum, SoftClip, TokenRatio
from anypo.run.trainer import Trainer
from anypo.systems import find


@pytest.mark.exact("salsa")
def test_a_soup_of_log_linear_policies_averages_their_logits() -> None:
    from anypo.update import SoupReference

    graph = tree(3, 3)
    first, second = (EnumerablePolicy(graph, 2, spread=1.0, seed=s) for s in (1, 2))
    soup = first.frozen()
    soup.blend(second, 0.5)
    torch.testing.assert_close(soup.log_table(), ((first.logits() + second.logits()) / 2).log_softmax(-1))
    assert bool((truth.kl(first.log_table(), soup.log_table(), graph) > 0).all()), "the KL at the start is not zero"
    assert "name at least one" in str(SoupReference().refuse(None))


def test_soup_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from anypo import policies
    from anypo.update import SoupReference

    graph = tree(3, 2)
    others = {name: EnumerablePolicy(graph, 1, seed=i) for i, name in enumerate(["a", "b"], start=1)}
    monkeypatch.setattr(policies, "load", lambda name: others[name])
    own = EnumerablePolicy(graph, 1, seed=0)
    for share in (0.5, 1.0, 0.0, 0.2):
        soup = SoupReference(models=("a", "b"), own=share).begin(own)
        expected = share * own.weight + (1 - share) / 2 * (others["a"].weight + others["b"].weight)
        torch.testing.assert_close(soup.weight, expected)
    assert torch.equal(SoupReference(models=("a",), own=1.0).begin(own).weight, own.weight), (
        "own = 1 is PPO's reference"
    )


def a_lol(ratio: Any, width: float = 0.9) -> PolicyGradient:
    return PolicyGradient(ratio=ratio, trust=SoftClip(low=width, high=width), aggregate=SequenceSum())


def test_a_lol_variants_agree_at_the_reference() -> None:
    batch = make([[3, 5, 2]], seed=2)
    batch = batch.with_rows(logp=batch["logp_ref"], advantage=batch.spread(torch.rand(3, dtype=torch.float64)))
    cloned = batch["advantage"] / 3  # behaviour cloning weighted by the advantage
    ours = find("a-lol").algorithm().objective
    for objective in (ours, a_lol(TokenRatio(denominator="ref")), a_lol(ScoreFunction())):
        torch.testing.assert_close(ascent(objective, batch), cloned)


@pytest.mark.exact("a-lol")
def test_a_lols_weight_is_the_product_of_token_ratios_clipped() -> None:
    batch = make([[3, 2]], seed=5, drift=0.4)
    batch = batch.with_rows(advantage=batch.spread(torch.tensor([0.5, 1.0], dtype=torch.float64)))
    product = torch.stack([part.sum() for part in (batch["logp"] - batch["logp_ref"]).split([3, 2])]).exp()
    weight = product.clamp(0.1, 1.9)
    expected = batch.spread(weight * torch.tensor([0.5, 1.0], dtype=torch.float64)) / 2
    torch.testing.assert_close(ascent(find("a-lol").algorithm().objective, batch), expected)
    narrow = a_lol(TokenRatio(denominator="ref"), width=0.0)
    torch.testing.assert_close(ascent(narrow, batch), ascent(a_lol(ScoreFunction()), batch))


@pytest.mark.exact("a-lol")
def test_without_filter_and_clip_a_lol_is_the_policy_gradient() -> None:
    """Enumerated over two-token responses of the reference: E_ref[ A w grad log pi ] is the gradient of E_pi[R]."""
    world = Testbed(vocabulary=3, horizon=2, prompts=1, reward="graded").world(5)
    policy, graph, reward = world.policy, world.policy.graph, world.task.reward
    reference = policy.frozen()
    with torch.no_grad():
        policy.weight.add_(0.3 * torch.randn(policy.weight.shape, generator=torch.Generator().manual_seed(2)).double())
    logp = truth.sequence_logp(policy.log_table(), graph)[0]
    score = truth.sequence_reward(reward, graph)[0]
    chance = truth.sequence_logp(reference.log_table(), graph)[0].detach().exp()
    weight = (logp.detach().exp() / chance) * (score - (chance * score).sum())
    (found,) = torch.autograd.grad((chance * weight * logp).sum(), policy.weight)
    (true,) = torch.autograd.grad(truth.value(policy.log_table(), reward, graph).sum(), policy.weight)
    torch.testing.assert_close(found, true)


def test_only_positive_advantages_are_left_drawn_in_proportion() -> None:
    batch = make([[2, 1, 3, 1]]).with_sequences(advantage=torch.tensor([-1.0, 3.0, 0.0, 1.0], dtype=torch.float64))
    context = lambda step: Context(step, 10, 0, Memory(Algorithm()))
    assert Leftover().select(batch, context(0)).sequences["sample"].tolist() == [1, 3]
    drawn = [Leftover(share=0.5).select(batch, context(k)).sequences["sample"].tolist() for k in range(2000)]
    assert all(len(one) == 1 for one in drawn)
    assert np.mean([one == [1] for one in drawn]) == pytest.approx(0.75, abs=0.04)
    nothing = batch.with_sequences(advantage=-torch.ones(4, dtype=torch.float64))
    assert Leftover(share=0.5).select(nothing, context(0)).n_sequences == 0


def test_offline_training_uses_the_collected_rollouts_and_no_others() -> None:
    run = trainer("a-lol", {"replay.collect": 2, "replay.groups": 3})
    start = run.weights.policy.weight.detach().clone()
    collected = []
    for _ in range(2):
        run.step()
        collected += [group.rewards.tolist() for group in run.groups]
        assert torch.equal(run.weights.policy.weight, start)
    context = Context(2, 20, 3, run.memory)
    drawn = [group for step in (2, 3) for group in _drawn(run, context, step)]
    assert sorted(group.rewards.tolist() for group in drawn) == sorted(collected), "one pass is every group once"
    run.memory[run.algorithm.replay]["drawn"] = 0  # as if nobody had looked
    run.step()
    assert not torch.equal(run.weights.policy.weight, start)
    for _ in range(2):
        run.step()
        assert all(int(t.version.max()) == 0 for t in run.batch.trajectories)  # type: ignore[union-attr]


def _drawn(run: Trainer, context: Context, step: int) -> list[Any]:
    context.step = step
    return run.algorithm.replay.select([], 0, context)
