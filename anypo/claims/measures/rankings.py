"""What preference learning reports about itself, against how its policies rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.measures.rankings import dpo_loss, flip_threshold, idealised, ranked

PAIRS, BETA = 100, 1.0
"""Reference margins have a standard deviation of about 3, so beta |c| is what summed log-probabilities of long answers give at the
usual beta of 0.1."""


@dataclass(frozen=True)
class Trained:
    """Margins log pi(y_w) - log pi(y_l) of the reference and of the trained policy, [pairs], and the optimiser steps taken."""

    reference: np.ndarray
    margin: np.ndarray
    steps: int


@claim("ranking-accuracy", base="reward accuracy of the same policies", seconds=20, seeds=8,
       published="most preference-tuned models rank under 60 % right, far below the ideal; DPO rarely flips a misranked pair",
       stand_in="an enumerable policy (4 tokens, 100 prompts with one random pair each) for the language model")  # fmt: skip
def ranking_accuracy(run: ClaimRun) -> Outcome:
    """DPO until its mean loss is half of what it began with: ranking accuracy beside the reward accuracy of the same policies, which
    compares log-ratios to the reference. Notes: ranking accuracy before, idealised accuracy at full agreement, misranked pairs that
    flipped by how strongly the reference misranked them, the loss without a reference, and whether the flip threshold held for every
    pair."""
    ours = run.each(lambda seed: train(seed, 1.0, run.steps(400)))
    rank = [float(ranked(t.margin, np.zeros(PAIRS)).mean()) for t in ours]
    reward = [float((t.margin > t.reference).mean()) for t in ours]
    before = np.mean([(t.reference >= 0).mean() for t in ours])
    ideal = np.mean([idealised(t.reference, BETA, 1.0).mean() for t in ours])
    run.note(f"ranked right by the reference: {before:.2f}; idealised: {ideal:.2f}.")
    easy, hard = (np.mean([flipped(t, half) for t in ours]) for half in (0, 1))
    run.note(
        f"misranked pairs that flipped: {easy:.2f} of the less misranked half, {hard:.2f} of the more misranked half."
    )
    free = [train(seed, 0.0, t.steps, halve=False) for seed, t in zip(run.seeds, ours)]
    run.note(f"as many steps without a reference: {np.mean([(t.margin >= 0).mean() for t in free]):.2f} ranked right.")
    held = all(
        ((dpo_loss(t.margin, t.reference, BETA) <= flip_threshold(t.reference, BETA)) == (t.margin >= 0)).all()
        for t in ours
    )
    run.note(f"the flip threshold {'held for every pair' if held else 'FAILED for some pair'}.")
    return compare(reward, rank, "ranking accuracy (base: reward accuracy)", run, larger=False)


def flipped(found: Trained, half: int) -> float:
    """Share of the misranked pairs that were flipped, of the less (0) or the more (1) misranked half."""
    wrong = np.flatnonzero(found.reference < 0)
    order = wrong[np.argsort(-found.reference[wrong])]
    chosen = np.array_split(order, 2)[half]
    return float((found.margin[chosen] >= 0).mean())


def train(seed: int, gamma: float, steps: int, halve: bool = True) -> Trained:
    """Adam on -log sigmoid(beta (m - gamma m_ref)), gamma 1 for DPO and 0 without a reference, for at most `steps` steps (until
    the loss is half of its first value, with `halve`)."""
    graph = tree(4, 4)
    policy = EnumerablePolicy(graph, PAIRS, "linear", spread=1.0, seed=seed)
    chosen = _random_pairs(len(graph.sequences()[0]), seed)

    def margin() -> Tensor:
        logp = truth.sequence_logp(policy.log_table(), graph).gather(1, chosen)
        return logp[:, 0] - logp[:, 1]

    reference = margin().detach()
    optimiser = torch.optim.Adam(policy.parameters(), 0.02)
    first, step = float("inf"), 0
    for step in range(steps):
        loss = softplus(-BETA * (margin() - gamma * reference)).mean()
        first = float(loss.detach()) if step == 0 else first
        if halve and float(loss.detach()) <= 0.5 * first:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Trained(reference.numpy(), margin().detach().numpy(), step)


def _random_pairs(sequences: int, seed: int) -> Tensor:
    """A better and a worse sequence for every prompt, at random, [PAIRS, 2]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(sequences, generator=generator)[:2] for _ in range(PAIRS)])
