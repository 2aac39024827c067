"""What is compared with what: contenders, seeds, the budget, and one cell for every pair of contender and seed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anypo.errors import UserError, unknown
from anypo.systems import find

MEASURES = ("tokens", "trained", "seconds", "updates")
"""Budgets: generated tokens, trained tokens, wall-clock seconds of training, optimiser updates."""

SUFFIX = {"k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Budget:
    """`amount` of one measure; a cell stops at the first step at or beyond it. All four measures are always reported."""

    measure: str
    amount: float

    @staticmethod
    def parse(text: str) -> Budget:
        """``tokens=2M``, ``seconds=300``, ``updates=50``; `UserError` otherwise."""
        measure, _, amount = text.partition("=")
        if measure not in MEASURES:
            raise unknown("budget", measure, MEASURES, "Write it as measure=amount, e.g. tokens=2M.")
        try:
            number = float(amount[:-1]) * SUFFIX[amount[-1].lower()] if amount[-1:].lower() in SUFFIX else float(amount)
        except ValueError:
            raise UserError(f"--budget {text}: '{amount}' is not a number (e.g. tokens=2M, seconds=300)") from None
        if not number > 0:
            raise UserError(f"--budget {text}: the amount must be above 0")
        return Budget(measure, number)


@dataclass(frozen=True)
class Contender:
    """A method under a label: a named system with changes. `factors`: the level of each varied slot, for factorial designs."""

    label: str
    system: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> Contender:
        """Refuse an impossible composition before anything runs."""
        find(self.system).algorithm().set(self.changes).check()
        return self


@dataclass(frozen=True)
class Settings:
    """Everything the cells share."""

    model: str
    task: str
    task_options: Mapping[str, Any]
    budget: Budget
    common: Mapping[str, Any]
    sft_steps: int = 0
    sft_lr: float = 2e-3
    eval_size: int = 128
    evaluations: int = 8
    samples: int = 8
    sample_problems: int = 64
    init_seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One contender with one seed."""

    contender: Contender
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        """Identity of the cell: the same specification always has the same key, so finished cells are found again."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return (
            f"{self.contender.label}-{self.seed}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}".replace(
                "/", "_"
            )
        )


def contenders(systems: Sequence[str], vary: Sequence[str]) -> list[Contender]:
    """Named systems, crossed with every combination of the varied slots (``credit.centre=group_mean,leave_one_out``).

    Short slot names are allowed where only one path ends in them (``trust`` for ``objective.trust``). Raises `UserError` for
    unknown names, impossible compositions and repeated contenders.
    """
    axes = [_axis(text) for text in vary]
    out = []
    for system in systems:
        algorithm = find(system).algorithm()
        paths = [_path(algorithm, slot) for slot, _ in axes]
        for levels in itertools.product(*(values for _, values in axes)):
            changes = dict(zip(paths, levels))
            factors = {slot: level for (slot, _), level in zip(axes, levels)}
            label = " ".join([system, *(f"{slot}={level}" for slot, level in factors.items())])
            out.append(Contender(label, system, changes, factors).check())
    labels = [contender.label for contender in out]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated:
        raise UserError(f"'{repeated}' appears twice in the comparison")
    return out


def cells(chosen: Sequence[Contender], seeds: int, settings: Settings) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished comparison is balanced."""
    return [Cell(contender, seed, settings) for seed in range(seeds) for contender in chosen]


def _axis(text: str) -> tuple[str, list[str]]:
    slot, equals, levels = text.partition("=")
    values = [level.strip() for level in levels.split(",") if level.strip()]
    if not equals or len(values) < 2:
        raise UserError(f"--vary {text}: write slot=level,level,... with at least two levels")
    return slot, values


def _path(algorithm: Any, slot: str) -> str:
    if "." in slot:
        return slot
    found = [path for path, _ in algorithm.walk() if path == slot or path.endswith(f".{slot}")]
    if len(found) != 1:
        known = sorted(path for path, _ in algorithm.walk() if path)
        raise (
            unknown("slot to vary", slot, known)
            if not found
            else UserError(f"'{slot}' is ambiguous: {', '.join(found)}")
        )
    return found[0]
