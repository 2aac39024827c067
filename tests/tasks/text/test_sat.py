"""The stand-in for pycosat enumerates exactly the satisfying assignments."""

from __future__ import annotations

import itertools
import random

from anypo.tasks.text.sat import itersolve


def test_all_models_and_nothing_else() -> None:
    rng = random.Random(3)
    for _ in range(20):
        clauses = [[rng.choice([-1, 1]) * v for v in rng.sample(range(1, 6), 3)] for _ in range(rng.randint(1, 12))]
        used = range(1, max(abs(literal) for clause in clauses for literal in clause) + 1)
        expected = {
            signs
            for signs in itertools.product(*[(v, -v) for v in used])
            if all(any(literal in signs for literal in clause) for clause in clauses)
        }
        found = [tuple(literal for literal in model if abs(literal) in used) for model in itersolve(clauses)]
        assert set(found) == expected and len(set(found)) == len(found)


def test_a_contradiction_has_no_model() -> None:
    assert list(itersolve([[1], [-1]])) == []
