"""Three small languages of letters, of which one is small, one large, and one is noise; and their mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.claims.beds.words import TextTask
from anypo.data.records import prompt_id
from anypo.run.probes import demonstrated, unlikelihood
from anypo.tasks.base import Problem
from anypo.tasks.mixture import Mixture, Source

LETTERS: Mapping[str, str] = {"small": "abcd", "large": "abefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST", "noise": "0123"}
"""What each language is written in; the first two share letters."""

LENGTH = 16
TINY = {"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 96, "context": 64}


def languages(count: int = 1024, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Mixture:
    """Texts of sixteen letters. In `small` and `large` a letter follows from the one before by a fixed table, nine times in ten, and
    is drawn at random else, as it always is in `noise`, of which little can be learned: which letters it has. The last quarter of each
    is held out; weights are those that the mixture states."""
    rng, tasks = np.random.default_rng(0), []
    for name, letters in LETTERS.items():
        follow, texts = rng.permutation(len(letters)), []
        for number in range(count):
            said = [int(rng.integers(len(letters)))]
            while len(said) < LENGTH:
                known = name != "noise" and rng.random() < 0.9
                said.append(int(follow[said[-1]]) if known else int(rng.integers(len(letters))))
            texts.append(_problem(name, number, "".join(letters[n] for n in said)))
        tasks.append(TextTask(tuple(texts), _graded, name))
    named = [Source(task=name, weight=weight) for name, weight in zip(LETTERS, weights, strict=True)]
    return Mixture(named, tasks)  # type: ignore[arg-type]


def _problem(name: str, number: int, said: str) -> Problem:
    return Problem(prompt_id(f"{name} {number}"), ({"role": "user", "content": f"{name[0].upper()}:"},), said, said)


def _graded(problem: Problem, text: str) -> float:
    return float(text == problem.answer)


def unseen_losses(mixture: Mixture, policy: Any) -> list[float]:
    """Mean negative log-likelihood per token of every language's held-out answers, in nats."""
    held = [[task.heldout(n) for n in range(task.n_heldout)] for task in mixture.tasks.values()]
    return [unlikelihood(demonstrated(problems, policy), policy) for problems in held]
