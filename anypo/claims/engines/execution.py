"""Claims of `anypo.systems.engines.execution`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, identity
from anypo.claims.beds.exact import TOY, Testbed, mean_final, train
from anypo.claims.beds.words import SMALL
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Tokens, Trajectory
from anypo.systems import find


@claim("prefix-grouper", published="identical outputs and gradients to repeated prompts, with large savings for long prefixes",
       seconds=40, seeds=3, stand_in="a two-layer character model in float64")  # fmt: skip
def prefix_grouper(run: ClaimRun) -> Outcome:
    """Gradients of a group of eight ragged answers through the packed prefix against one ordinary pass per answer, float64: largest
    difference relative to the largest gradient. Notes: time saved against the ratio of tokens."""
    errors, other = [], []
    for seed in run.seeds:
        policy, batch, weight = _shared(seed, prefix=40, answers=(3, 17, 1, 9, 12, 5, 20, 8), double=True)
        packed = _packed(policy, [batch], [weight])
        alone = [batch.select(torch.tensor([i])) for i in range(batch.n_sequences)]
        apart = _packed(policy, alone, list(weight.split(batch.sequences["length"].tolist())))
        errors.append(_difference(packed, apart))
        other.append(_difference(packed, _repeated(policy, batch, weight)))
    run.note(f"against transformers' own pass, whose norms are in float32: {max(other):.0e}.")
    for prefix, length in ((4, 16), (16, 16), (128, 16), (256, 8)):
        work = _shared(0, prefix, (length,) * 8, double=False)
        ratio = 8 * (prefix + length) / (prefix + 8 * length)
        plain, packed_time = _fastest(_repeated, work), _fastest(_one_pass, work)
        run.note(
            f"prompt {prefix}, answers {length}: {plain / packed_time:.1f} times faster, {ratio:.1f} times fewer tokens."
        )
    return identity(max(errors), 1e-10, "largest relative difference of gradients", run)


def _packed(policy: Any, batches: Sequence[Batch], weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradient of the weighted log-probabilities, one packed pass per batch."""
    policy.model.zero_grad(set_to_none=True)
    for batch, weight in zip(batches, weights):
        policy.backward(batch, {"logp": weight}, 100_000)
    return [p.grad.clone() for p in policy.parameters()]


def _one_pass(policy: Any, batch: Batch, weight: torch.Tensor) -> list[torch.Tensor]:
    return _packed(policy, [batch], [weight])


def _difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference, relative to the largest entry of `b`."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b)) / max(float(y.abs().max()) for y in b)


def _shared(seed: int, prefix: int, answers: Sequence[int], double: bool) -> tuple[Any, Batch, torch.Tensor]:
    """A model, a group of answers to one prompt, and random coefficients of their log-probabilities."""
    from anypo.policies.loading import load

    policy = load(SMALL, seed=seed)
    if double:
        policy.model.double()
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 90, prefix)
    members = []
    for sample, n in enumerate(answers):
        tokens = np.concatenate([prompt, rng.integers(0, 90, n)]).astype(np.int32)
        roles = np.array([CONTEXT] * prefix + [ACTION] * n, dtype=np.int8)
        members.append(Trajectory(0, Tokens(tokens, roles), np.zeros(n), np.zeros(n, np.int64), sample=sample))
    kind = torch.float64 if double else torch.float32
    batch = Batch.of(members, [0] * len(members), 1, kind)
    return policy, batch, torch.as_tensor(rng.normal(size=len(batch)), dtype=kind)


def _repeated(policy: Any, batch: Batch, weight: torch.Tensor) -> list[torch.Tensor]:
    """The same gradient with the prompt repeated for every answer, one padded pass."""
    policy.model.zero_grad(set_to_none=True)
    rows = [torch.from_numpy(t.content.tokens).long() for t in batch.trajectories]  # type: ignore[union-attr]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r), dtype=torch.long) for r in rows], batch_first=True)
    logp = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
    taken = [
        logp[i, torch.from_numpy(t.content.actions - 1), r[torch.from_numpy(t.content.actions)]]  # type: ignore[union-attr]
        for i, (t, r) in enumerate(zip(batch.trajectories, rows))
    ]
    (torch.cat(taken) * weight).sum().backward()
    found = [p.grad.clone() for p in policy.parameters()]
    policy.model.zero_grad(set_to_none=True)
    return found


def _fastest(work: Callable[..., Any], arguments: Sequence[Any], times: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work(*arguments)
        found.append(time.perf_counter() - began)
    return min(found)


@claim("missing-old-logits", base="decoupled at the step's starting policy", seconds=60, stand_in=TOY,
       published="lost old logits break decoupled correction; exact ones restore it (no figure for the exact strategies)")  # fmt: skip
def missing_old_logits(run: ClaimRun) -> Outcome:
    """Snapshots against the shortcut that splits the ratio at the present policy, with answers begun eight steps ago, written by
    several versions, and an engine with an error of 0.2 in its logits: exact reward at the end. The remarks give the share of
    tokens that each takes for an engine's mistake, and weight averaging (PPO-EWMA, decay 0.8)."""
    bed = Testbed(lag=8, versions="partial", noise=0.2, lr=0.15)
    count = run.steps(50)
    exact = find("missing-old-logits").algorithm()
    shortcut = exact.set(
        {
            "update.reference": "none",
            "objective.ratio": "token",
            "objective.corrections.0.ratio.numerator": "old",
        }
    )
    average = exact.set({"update.reference": {"part": "ema", "decay": 0.8}})
    base, ours, middle = (
        [train(method, bed, count, seed) for seed in run.seeds] for method in (shortcut, exact, average)
    )
    shares = [
        float(np.mean([c.metric("objective/rejected_share").mean() for c in side])) for side in (base, middle, ours)
    ]
    run.note(f"left out: {shares[0]:.3f} (shortcut), {shares[1]:.3f} (average), {shares[2]:.3f} (exact).")
    run.note(f"final reward with the average: {mean_final(middle):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)
