"""Claims of `anypo.systems.control.evolution`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.control import score
from anypo.run.acting import control_world
from anypo.run.trainer import Trainer
from anypo.systems import find

MEMBERS = 10
SMALL: dict[str, Any] = {
    "control.prompts": MEMBERS, "update.parents": 3, "update.sigma": 0.2, "generate.candidates": 3, "generate.again": 5,
}  # fmt: skip
"""A population so small that the first generation rarely holds a solution."""

RANDOM = {"update.parents": 0}
UNSELECTED = {"update.parents": MEMBERS, "update.elite": False}


@claim("deep-ga", base="random search", seconds=60, seeds=6, stand_in="CartPole-v1 for Atari, 16 hidden units",
       published="better than random search on most of the 13 Atari games, random search being surprisingly strong")  # fmt: skip
def deep_ga(run: ClaimRun) -> Outcome:
    """Eight generations of ten members on CartPole, 200 episodes with those of the candidates, against random search with as many
    (every member of every generation drawn afresh, the elite found and kept in the same way): mean return of the final
    policy's best actions over ten fresh episodes.
    The remark is the control: mutation in which every member has offspring and none is kept."""
    generations = run.steps(8)
    base = run.each(lambda seed: _final(RANDOM, seed, generations))
    ours = run.each(lambda seed: _final({}, seed, generations))
    blind = run.each(lambda seed: _final(UNSELECTED, seed, generations))
    run.note(f"mutation without selection: {np.mean(blind):.1f}.")
    return compare(base, ours, "mean return of the final policy", run)


def _final(changes: Mapping[str, Any], seed: int, generations: int) -> float:
    algorithm = find("deep-ga").algorithm().set({**SMALL, **changes})
    trainer = Trainer(algorithm, control_world("CartPole-v1", seed, hidden=(16,)), seed, generations)
    for _ in range(generations):
        trainer.step()
    return score(trainer, 10, 1_000 + seed)
