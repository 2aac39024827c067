"""Claims of `anypo.systems.agents.experience`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, weaker
from anypo.claims.beds import strategies
from anypo.claims.beds.exact import mean, shown
from anypo.exact.policy import LETTERS
from anypo.replay.libraries.lessons import LESSONS
from anypo.run.trainer import Trainer
from anypo.systems import find

SUMMARISER = f"{strategies.__name__}:contraster"


@claim(
    "training-free-grpo",
    published="DeepSeek-V3.1-Terminus, weights unchanged, 100 problems: AIME 2024 from 80.0 to 82.7 %, AIME 2025 from 67.9 to 73.3 %",
    seconds=20,
    seeds=10,
    stand_in="a frozen table policy with eight strategies that lessons make likelier, a program that contrasts answers",
)
def training_free_grpo(run: ClaimRun) -> Outcome:
    """Exact success on held-out questions after three passes over 48 others, groups of five: the library that was learned against
    no library. Control: as many lessons about strategies drawn at random. Notes: lessons learned from single
    attempts instead of groups, and the largest change of any weight (none is allowed)."""
    bed, steps = strategies.Strategies(), run.steps(12)
    method = find("training-free-grpo").algorithm()
    method = method.set({"control.prompts": 12, "generate.max_new": 1, "generate.temperature": 1.0})
    base, ours, chance, alone, moved = [], [], [], [], []
    for seed in run.seeds:
        learned, world, change = _learn(bed, method.set({"models.0.model": SUMMARISER}), steps, seed)
        single, _, _ = _learn(bed, method.set({"models.0.model": f"{strategies.__name__}:single"}), steps, seed)
        base.append(bed.success(world, ""))
        ours.append(bed.success(world, learned))
        alone.append(bed.success(world, single))
        chance.append(mean(bed.success(world, _drawn(learned, seed, n)) for n in range(20)))
        moved.append(change)
    run.note(f"lessons from single attempts: {shown(alone)}. Largest change of a weight: {max(moved):g}.")
    found = compare(
        base, ours, "success on held-out questions", run, least=0.02, controls={"random lessons, as many": chance}
    )
    return found if max(moved) == 0.0 else replace(found, verdict=weaker(found.verdict, "not_reproduced"))


def _learn(bed: strategies.Strategies, method: Any, steps: int, seed: int) -> tuple[str, Any, float]:
    """The library after so many steps of the real loop, the world, and the largest change of a weight."""
    world = bed.world(method, seed)
    start = world.policy.weight.detach().clone()
    trainer = Trainer(method, world, seed, steps)
    for _ in range(steps):
        trainer.step()
    return world.shelf.find(LESSONS).text(), world, float((world.policy.weight.detach() - start).abs().max())


def _drawn(library: str, seed: int, draw: int) -> str:
    """As many lessons as `library` has, about strategies drawn without replacement."""
    letters = list(LETTERS[: strategies.STRATEGIES])
    rng = np.random.default_rng([seed, draw])
    return "\n".join(
        f"use {letter}" for letter in rng.choice(letters, library.count("\n") + bool(library), replace=False)
    )
