"""Truncated sampling is trained on as it was sampled: every log-probability is renormalised over the tokens that were kept then."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from anypo import policies
from anypo.data.batch import Batch
from anypo.data.kept import Kept
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.data.stored import plain, restore
from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.engine.training import TrainingForward
from anypo.engine.training.forward import Sample
from anypo.engine.training.head import Head, Reading, Within, differentiable, gradients, statistics
from anypo.exact.graph import tree
from anypo.exact.policy import EnumerablePolicy

SETTINGS = [Sampling(12, 0.7, top_k=5), Sampling(12, 1.0, top_p=0.6), Sampling(12, 1.4, min_p=0.7)]
MIXED = Sampling(12, 1.3, top_p=0.9, top_k=20)


def small() -> object:
    return policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48}, seed=1, dtype="float32")


def three(weights: list[float], token: int, mask: list[int] | None) -> tuple[EnumerablePolicy, Batch]:
    """A policy over three tokens with these logits, and one decision drawn inside a mask."""
    policy = EnumerablePolicy(tree(3, 1), 1)
    with torch.no_grad():
        policy.weight[0] = torch.tensor(weights, dtype=torch.float64)
    content = Tokens(np.array([3, token], np.int32), np.array([CONTEXT, ACTION], np.int8))
    kept = Kept.of([None if mask is None else np.array(mask)])
    mass = policy.log_table()[0, 0].detach()[mask].logsumexp(0) if mask else torch.zeros(())
    one = Trajectory(0, content, np.zeros(1), np.zeros(1, np.int64), log_mass=np.array([float(mass)]), kept=kept)
    return policy, Batch.pack([Group(0, (one,))], torch.float64)


def test_the_ratio_after_an_update_is_that_of_the_masked_policies() -> None:
    policy, batch = three([1.0, 0.0, 0.0], 0, [0, 1])
    before = policy.fill(batch, {"logp"}, False)["logp"]
    with torch.no_grad():
        policy.weight[0, 0] = 2.0
    ratio = float((policy.fill(batch, {"logp"}, False)["logp"] - before).exp())
    e = np.e
    assert ratio == pytest.approx((e**2 / (e**2 + 1)) / (e / (e + 1)), abs=1e-12) == pytest.approx(1.205, abs=5e-4)
    unmasked, batch = three([1.0, 0.0, 0.0], 0, None)
    assert float(unmasked.fill(batch, {"logp"}, False)["logp"].exp()) == pytest.approx(e / (e + 2))


def test_the_score_has_expectation_zero_inside_the_mask() -> None:
    total = torch.zeros(3, dtype=torch.float64)
    for token in (0, 1):
        policy, batch = three([1.0, 0.0, 0.0], token, [0, 1])
        logp = policy.fill(batch, {"logp"}, True)["logp"]
        logp.sum().backward()
        total += logp.detach().exp() * policy.weight.grad[0]
    torch.testing.assert_close(total, torch.zeros(3, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_the_head_agrees_with_a_masked_softmax(chunk: int | None) -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (6, 9))
    bias = torch.randn(9, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 0, 1, 2, 3, 3, 5])
    targets = torch.tensor([4, 2, 0, 8, 1, 1, 3])
    sets = {
        0: [4, 5, 8],
        3: [8],
        4: [0, 1, 2],
        5: [1, 7],
    }  # two decisions of one row with sets of their own, and one without any
    within = Within(
        torch.tensor([a for s in sets.values() for a in s]), torch.tensor([n for n, s in sets.items() for _ in s])
    )
    heat = 0.5 + torch.rand(6, dtype=torch.float64)
    z = (hidden @ weight.t() + bias) / heat[:, None]
    wanted = torch.stack(
        [z[r, a] - z[r, sets.get(n, list(range(9)))].logsumexp(0) for n, (r, a) in enumerate(zip(rows, targets))]
    )
    entropy = torch.distributions.Categorical(logits=z).entropy()
    d_logp, d_entropy = torch.randn(7, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    reading, head, leaves = Reading(targets, rows, heat, within), Head(weight, bias), (hidden, weight, bias)
    found = differentiable(hidden, head, reading, True, chunk)
    torch.testing.assert_close(found.logp, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics(hidden, head, reading, False, chunk).logp, wanted, rtol=1e-12, atol=1e-12)
    true = torch.autograd.grad((wanted * d_logp).sum() + (entropy * d_entropy).sum(), leaves)
    late = torch.autograd.grad((found.logp * d_logp).sum() + (found.entropy * d_entropy).sum(), leaves)
    columns, once = gradients(hidden, head, reading, d_logp, d_entropy, chunk=chunk)
    torch.testing.assert_close(columns.logp, wanted, rtol=1e-12, atol=1e-12)
    for a, b, c in zip(true, late, once):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(c, a, rtol=1e-11, atol=1e-12)


def sampled(policy: object, sampling: Sampling, n: int = 3) -> Batch:
    engine = LocalEngine(policy.model, policy.tokenizer)
    prompt = np.arange(5, 11)
    done = engine.generate([Request(prompt, sampling, (k,)) for k in range(n)])
    rollouts = [
        Trajectory(
            0,
            Tokens(
                np.concatenate([prompt, d.tokens]).astype(np.int32),
                np.array([CONTEXT] * len(prompt) + [ACTION] * len(d.tokens), np.int8),
            ),
            d.logp,
            d.version,
            entropy=d.entropy,
            log_mass=d.log_mass,
            kept=d.kept,
            temperature=sampling.temperature,
        )
        for d in done
    ]
    return Batch.pack([Group(0, tuple(rollouts))])


def masked(policy: object, batch: Batch, heat: float) -> torch.Tensor:
    """Log-probabilities under the stored sets, from the model's own full logits."""
    out = []
    for t in batch.trajectories:
        tokens = torch.from_numpy(t.content.tokens).long()
        z = policy.model(input_ids=tokens[None]).logits[0].double() / heat
        for place, kept in zip(t.content.actions.tolist(), t.kept):
            row = z[place - 1]
            out.append(row[tokens[place]] - row[torch.from_numpy(kept).long()].logsumexp(0))
    return torch.stack(out)


@pytest.mark.parametrize("sampling", [*SETTINGS, MIXED], ids=["top_k", "top_p", "min_p", "both"])
def test_sampled_and_trained_log_probabilities_agree_before_and_after_the_weights_move(sampling: Sampling) -> None:
    policy = small()
    batch = sampled(policy, sampling)
    assert all(t.kept is not None and (t.kept.counts > 0).any() for t in batch.trajectories)
    found = policy.fill(batch, {"logp"}, grad=False)["logp"]
    torch.testing.assert_close(found, batch["logp_behaviour"], atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    wanted = masked(policy, batch, sampling.temperature)
    moved = policy.fill(batch, {"logp"}, grad=True)["logp"]
    listed = torch.from_numpy(np.concatenate([t.kept.counts for t in batch.trajectories])) > 0
    assert float((wanted - found)[listed].detach().abs().max()) > 1e-2
    torch.testing.assert_close(moved.double()[listed], wanted[listed], atol=2e-5, rtol=0)
    coefficients = torch.linspace(-1, 1, len(batch))[:, None].flatten() * listed
    (moved * coefficients).sum().backward()
    first = [p.grad.clone() for p in policy.parameters()]
    for p in policy.parameters():
        p.grad = None
    (wanted * coefficients).sum().backward()
    naive = [p.grad.clone() for p in policy.parameters()]
    for p in policy.parameters():
        p.grad = None
    policy.backward(batch, {"logp": coefficients}, 64)
    for a, b, p in zip(first, naive, policy.parameters()):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(p.grad, b, atol=1e-4, rtol=1e-3)


def test_what_is_stored_is_what_was_kept_and_nothing_where_all_was() -> None:
    policy = small()
    batch = sampled(policy, Sampling(8, 1.0, top_k=3))
    for t in batch.trajectories:
        assert (t.kept.counts == 3).all() and len(t.kept.tokens) == 3 * len(t)
        assert all(token in ids for token, ids in zip(t.content.tokens[t.content.actions], t.kept))
    everything = sampled(policy, Sampling(8, 1.0, top_k=10**6))
    assert all(t.kept is None for t in everything.trajectories)
    assert all(t.kept is None for t in sampled(policy, Sampling(8, 1.0)).trajectories)


def test_kept_sets_survive_storage_and_are_cut_and_joined() -> None:
    kept = Kept.of([np.array([1, 4]), None, np.array([7])])
    assert kept is not None and [ids.tolist() for ids in kept] == [[1, 4], [], [7]]
    assert [ids.tolist() for ids in kept.part(1, 3)] == [[], [7]] and kept.part(1, 2) is None
    both = Kept.joined([None, kept], [2, 3])
    assert both.counts.tolist() == [0, 0, 2, 0, 1] and Kept.joined([None, None], [1, 2]) is None
    ids, owner = kept.around(np.array([4, 9, 8]))  # the last one was put there: it could not be drawn
    assert ids.tolist() == [1, 4] and owner.tolist() == [0, 0]
    content = Tokens(np.array([3, 4, 9, 7], np.int32), np.array([CONTEXT] + [ACTION] * 3, np.int8))
    one = Trajectory(0, content, np.zeros(3), np.zeros(3, np.int64), kept=kept)
    again = restore(plain(one))
    assert [ids.tolist() for ids in again.kept] == [[1, 4], [], [7]]
    assert restore(plain(one.replace(kept=None))).kept is None


def test_a_view_keeps_the_sets_of_the_context_that_was_sampled_in_only() -> None:
    policy, batch = three([1.0, 0.0, 0.0], 0, [0, 1])
    other = Tokens(np.array([3, 0], np.int32), np.array([CONTEXT, ACTION], np.int8))
    seen = dataclasses.replace(batch, views={"own": (None,), "other": (other,)})
    found = policy.fill(seen, {"logp@own", "logp@other"}, False)
    assert float(found["logp@own"].exp()) == pytest.approx(np.e / (np.e + 1))
    assert float(found["logp@other"].exp()) == pytest.approx(np.e / (np.e + 2))


def test_a_prefix_that_several_sequences_share_keeps_each_ones_sets() -> None:
    policy = small()
    tokens = np.array([5, 6, 7, 8, 9])
    sets = [Kept.of([np.array([7, 8]), None]), Kept.of([np.array([7, 20, 30]), np.array([8, 9])]), None]
    samples = [Sample(tokens, np.array([2, 3]), kept=s) for s in sets]
    found = TrainingForward(policy.model).statistics(samples)["logp"].detach().double()
    z = policy.model(input_ids=torch.tensor(tokens)[None]).logits[0].double().detach()
    every = torch.arange(z.shape[1])
    pairs = [([7, 8], every), ([7, 20, 30], [8, 9]), (every, every)]
    wanted = [
        z[at - 1, tokens[at]] - z[at - 1, torch.as_tensor(s)].logsumexp(0) for p in pairs for at, s in zip((2, 3), p)
    ]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)
