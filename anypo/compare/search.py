"""Successive halving over compositions: many contenders on a small budget, the better part of them on a larger one.

Jamieson & Talwalkar, "Non-stochastic best arm identification" (arXiv:1502.07943). The total budget is split equally between
rungs; every rung trains its contenders from the start, with the rung's own, larger budget.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.compare import run as runner
from anypo.compare.board import unit_of
from anypo.compare.plan import Contender, Settings, cells
from anypo.compare.vary import Axis, combinations
from anypo.errors import UserError
from anypo.parts import SLOTS
from anypo.run.settings.presets import has_path

SEARCHED = ("credit.centre", "credit.scale", "objective.ratio", "objective.trust", "objective.aggregate")
"""Slots that a search fills when no axis is given."""


@dataclass(frozen=True)
class Rung:
    """One round: the budget of each of its cells, the mean score of every contender, and who went on."""

    budget: Budget
    scores: Mapping[str, float]
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """The rungs in order, the contender left at the end, the records and failures of all rungs."""

    rungs: tuple[Rung, ...]
    winner: Contender
    base: str
    records: tuple[Mapping[str, Any], ...]
    failures: Mapping[str, str]


def grammar(base: Algorithm) -> list[Axis]:
    """For every searched slot of `base`, the parts that, with their default fields, it accepts there."""
    axes = []
    for path in SEARCHED:
        if not has_path(base, path):
            continue
        value: Any = base
        for step in path.split("."):
            value = getattr(value, step)
        names = tuple(name for name in sorted(SLOTS[value.slot].parts) if _fits(base, path, name))
        if len(names) > 1:
            axes.append(Axis(path, names))
    return axes


def compositions(base: Contender, count: int, axes: Sequence[Axis] = (), seed: int = 0) -> list[Contender]:
    """The base and up to `count` - 1 other compositions of the grammar (or of `axes`) on top of it, drawn without repetition."""
    algorithm = Algorithm.from_dict(base.algorithm)
    every = list(combinations(algorithm, axes or grammar(algorithm)))
    random.Random(seed).shuffle(every)
    out = [base]
    for changes, factors in every:
        if len(out) == count:
            break
        try:
            found = algorithm.set(changes).check().dump()
        except UserError:
            continue  # the parts exclude one another
        if all(found != other.algorithm for other in out):
            out.append(Contender(" ".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in factors.items()), found))
    return out


def halving(
    contenders: Sequence[Contender],
    tasks: Sequence[str],
    settings: Settings,
    folder: Path,
    *,
    seeds: int = 1,
    keep: float = 0.5,
    jobs: int | None = None,
    watcher: runner.Watcher | None = None,
    program: Sequence[str] = runner.PROGRAM,
) -> Search:
    """Spend `settings.budget`, shared equally by the rungs and in a rung equally by its cells, until one contender is left.

    A contender whose cells fail goes out. Raises `UserError` with fewer than two contenders.
    """
    if len(contenders) < 2:
        raise UserError("a search needs at least two contenders; raise --count or vary more")
    rounds = max(1, math.ceil(math.log(len(contenders)) / math.log(1 / keep) - 1e-9))
    total, alive = settings.budget, list(contenders)
    rungs: list[Rung] = []
    records: list[Mapping[str, Any]] = []
    failures: dict[str, str] = {}
    for number in range(rounds):
        budget = Budget(total.measure, total.amount / rounds / (len(alive) * len(tasks) * seeds))
        plan = cells(alive, tasks, range(seeds), replace(settings, budget=budget))
        found, failed = runner.run(plan, folder, jobs=jobs, watcher=watcher, program=program)
        records += [{**record, "rung": number} for record in found]
        failures |= {f"{name} (rung {number + 1})": reason for name, reason in failed.items()}
        scores = {c.label: _score(found, c.label) for c in alive}
        ranked = sorted((c for c in alive if not math.isnan(scores[c.label])), key=lambda c: -scores[c.label])
        alive = ranked[: max(1, math.ceil(len(alive) * keep))]
        rungs.append(Rung(budget, scores, tuple(c.label for c in alive)))
        if len(alive) == 1:
            break
    return Search(tuple(rungs), alive[0], contenders[0].label, tuple(records), failures)


def _score(records: Sequence[Mapping[str, Any]], label: str) -> float:
    values = [record["final"][unit_of(record)] for record in records if record["label"] == label]
    return float(np.mean(values)) if values else math.nan


def _fits(base: Algorithm, path: str, name: str) -> bool:
    try:
        base.set({path: name}).check()
    except UserError:
        return False
    return True
