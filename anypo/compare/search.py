"""Successive halving over compositions: many contenders on a small budget, the better part of them on a larger one.

Jamieson & Talwalkar, "Non-stochastic best arm identification" (arXiv:1502.07943). The total budget is split equally between
rungs; every rung trains its survivors from the start with the rung's own, larger budget.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anypo.compare import run as runner
from anypo.compare.plan import Budget, Cell, Contender, Settings
from anypo.errors import UserError

GRAMMAR: dict[str, tuple[str, ...]] = {
    "credit.centre": ("group_mean", "leave_one_out", "group_median"),
    "credit.scale": ("none", "std"),
    "objective.ratio": ("token", "sequence"),
    "objective.trust": ("clip", "none"),
    "objective.aggregate": ("token_mean", "sequence_mean", "sequence_sum"),
}
"""What is searched by default: slots and the parts tried in each."""


@dataclass(frozen=True)
class Rung:
    """One round: who took part, with what budget each, and the mean score of each."""

    budget: Budget
    scores: dict[str, float]
    survivors: tuple[str, ...]


def compositions(base: str, count: int, seed: int, grammar: dict[str, tuple[str, ...]] = GRAMMAR) -> list[Contender]:
    """`count` different possible compositions of the grammar on top of `base`, the unchanged base first."""
    rng = random.Random(seed)
    every = list(itertools.product(*grammar.values()))
    rng.shuffle(every)
    out = [Contender(base, base).check()]
    for levels in every:
        if len(out) == count:
            break
        changes = dict(zip(grammar, levels))
        label = " ".join(f"{path.rsplit('.', 1)[1]}={level}" for path, level in changes.items())
        try:
            out.append(Contender(label, base, changes).check())
        except UserError:
            continue  # refused by the grammar itself
    return out


def halving(
    contenders: Sequence[Contender],
    total: Budget,
    settings: Settings,
    folder: Path,
    *,
    seeds: int = 1,
    keep: float = 0.5,
    jobs: int | None = None,
    progress: runner.Progress | None = None,
) -> tuple[list[Rung], list[dict[str, Any]]]:
    """Rungs in order and the records of the last one. `total` is shared equally by the rungs; in a rung, equally by its cells."""
    rounds = max(1, math.ceil(math.log(len(contenders)) / math.log(1 / keep)))
    alive, rungs, records = list(contenders), [], []
    for _ in range(rounds):
        budget = Budget(total.measure, total.amount / rounds / (len(alive) * seeds))
        cells = [Cell(c, seed, replace(settings, budget=budget)) for seed in range(seeds) for c in alive]
        records = runner.run(cells, folder, jobs=jobs, progress=progress)
        scores = {
            c.label: float(np.mean([r["final"]["accuracy"] for r in records if r["label"] == c.label] or [math.nan]))
            for c in alive
        }
        ranked = sorted(alive, key=lambda c: -scores[c.label] if scores[c.label] == scores[c.label] else math.inf)
        alive = ranked[: max(1, math.ceil(len(ranked) * keep))]
        rungs.append(Rung(budget, scores, tuple(c.label for c in alive)))
    return rungs, records
