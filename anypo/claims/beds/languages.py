"""Three small languages over one alphabet, of which one is soon learned, one slowly, and one is noise; and their mixture."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.beds.words import TextTask
from anypo.data.batch import Batch
from anypo.data.records import Group, prompt_id
from anypo.replay.solutions import demonstration
from anypo.tasks.base import Problem
from anypo.tasks.mixture import Mixture, Source

ALPHABET = "abcdefghijklmnop"
LENGTH = 6
TINY = {"model": "tiny", "layers": 1, "hidden": 48, "intermediate": 96, "context": 64}
NAMES = ("copied", "coded", "noise")


def languages(count: int = 512, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Mixture:
    """Words of six letters: said again (`copied`), in a fixed code of two letters each, the pair deciding (`coded`), or answered by
    another word drawn at random (`noise`). The last quarter of each is held out; weights are those that the mixture states."""
    rng = np.random.default_rng(0)
    code = rng.permutation(len(ALPHABET))
    said = {
        "copied": lambda word: word,
        "coded": lambda word: code[(word + np.roll(word, 1)) % len(ALPHABET)],
        "noise": lambda word: rng.integers(len(ALPHABET), size=LENGTH),
    }
    tasks = []
    for name, answer in said.items():
        words = rng.integers(len(ALPHABET), size=(count, LENGTH))
        tasks.append(TextTask(tuple(_problem(name, word, answer(word)) for word in words), _graded, name))
    named = [Source(task=name, weight=weight) for name, weight in zip(NAMES, weights, strict=True)]
    return Mixture(named, tasks)  # type: ignore[arg-type]


def _problem(name: str, word: Any, answer: Any) -> Problem:
    text, solution = f"{name[0].upper()}{_spelt(word)}=", _spelt(answer)
    return Problem(prompt_id(text), ({"role": "user", "content": text},), solution, solution)


def _spelt(word: Any) -> str:
    return "".join(ALPHABET[n] for n in word)


def _graded(problem: Problem, text: str) -> float:
    return float(text == problem.answer)


def unseen_losses(mixture: Mixture, policy: Any) -> list[float]:
    """Mean negative log-likelihood per token of every language's held-out answers, in nats."""
    out = []
    for task in mixture.tasks.values():
        problems = [task.heldout(n) for n in range(task.n_heldout)]
        batch = Batch.pack([Group(p.prompt, (demonstration(p, policy),), p) for p in problems])
        out.append(-float(policy.fill(batch, ["logp"], grad=False)["logp"].double().mean()))
    return out
