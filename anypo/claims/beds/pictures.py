"""Pictures in words that only the policy sees, questions about them, and programs that reason, or describe in its place."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anypo.claims.beds.words import TextTask, warm
from anypo.data.records import prompt_id
from anypo.tasks.base import Problem

COLOURS = "rbg"
MODULUS = 4
CODES = "KLMN"
"""In what the other perceiver counts: how, it says in front."""

LOOK = "D"
"""How the policy is asked to describe."""

ASKED: Mapping[str, Any] = {
    "generate.describe": LOOK, "generate.reason": "{question} {description}", "generate.described": 8, "generate.max_new": 8,
}  # fmt: skip


def pictures() -> TextTask:
    """Three counts from 0 to 3, a colour each, and the sum of two of them modulo 4; the last quarter is held out."""
    rng, out = np.random.default_rng(0), []
    for counts in itertools.product(range(MODULUS), repeat=len(COLOURS)):
        picture = "".join(f"{colour}{count}" for colour, count in zip(COLOURS, counts))
        for asked in itertools.combinations(COLOURS, 2):
            text = f"{picture}?{''.join(asked)}"
            answer = str(sum(counts[COLOURS.index(colour)] for colour in asked) % MODULUS)
            said = ({"role": "user", "content": text},)
            out.append(Problem(prompt_id(text), said, answer, "", {"picture": picture}))
    return TextTask(tuple(out[n] for n in rng.permutation(len(out))), graded)


def graded(problem: Problem, text: str) -> float:
    """Whether the last digit is the answer."""
    digits = re.findall(r"\d", text)
    return float(bool(digits) and digits[-1] == problem.answer)


def is_true(description: str, problem: Problem) -> bool:
    """Whether a description says what is to be seen of the colours that are asked about."""
    told, seen = counted(description), counted(problem.metadata["picture"])
    return all(told.get(colour) == seen[colour] for colour in _asked(problem))


def says_false(answer: str, problem: Problem) -> bool:
    """Whether an answer names another count than is to be seen, or leaves one out."""
    words = answer.partition("=")[0]
    return not is_true(words, problem)


def _asked(problem: Problem) -> str:
    """The colours that a question is about."""
    return str(problem.messages[-1]["content"]).partition("?")[2]


def describer(steps: int, seed: int, right: float = 0.4) -> Callable[[], Any]:
    """A character model that describes pictures: `right` of them as they are, the others with a count that is left out or, as often,
    another one. It has answered no question."""
    rng, examples = np.random.default_rng(seed), []
    for _ in range(3000):
        counts = rng.integers(MODULUS, size=len(COLOURS)).tolist()
        cells = [f"{colour}{count}" for colour, count in zip(COLOURS, counts)]
        picture, place, luck = "".join(cells), int(rng.integers(3)), rng.random()
        if luck > right:
            other = (counts[place] + int(rng.integers(1, MODULUS))) % MODULUS
            cells[place] = f"{COLOURS[place]}{other}" if luck > (1 + right) / 2 else ""
        examples.append((f"{picture}\n\n{LOOK}", "".join(cells)))
    return warm(examples, steps, seed)


# -- programs in roles -------------------------------------------------------------------------------------------------------------


def _lot(text: str, most: int) -> int:
    """A number from 0 to `most` - 1 that a text always gets."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") % most


def counted(description: str) -> dict[str, int]:
    """The counts that a description gives, by colour; of two of one colour the first."""
    shift = re.match(r"\+(\d)", description)
    if shift:
        found = re.findall(rf"([{COLOURS}])([{CODES}])", description)
        return {colour: (CODES.index(code) - int(shift[1])) % MODULUS for colour, code in reversed(found)}
    return {colour: int(count) for colour, count in reversed(re.findall(rf"([{COLOURS}])([0-3])", description))}


def reasoner(texts: Sequence[str]) -> list[str]:
    """Names the counts that it is told of the two colours asked for, as it is told them, and their sum modulo 4; one sum in ten is
    wrong. A count that it is not told it guesses, another one every time, without saying so."""
    out = []
    for place, text in enumerate(texts):
        question, _, description = text.strip().partition(" ")
        asked, known = question[1:], counted(description)
        told = [colour for colour in asked if colour in known]
        words = "".join(re.findall(rf"{colour}[0-3{CODES}]", description)[0] for colour in told)
        total = sum(known[colour] for colour in told)
        if len(told) < len(asked):
            total += _lot(f"{text} {place} guess", MODULUS)
        elif _lot(f"{text} {place} slip", 10) == 0:
            total += 1 + _lot(f"{text} {place} by", MODULUS - 1)
        out.append(f"{words}={total % MODULUS}")
    return out


def perceiver(texts: Sequence[str]) -> list[str]:
    """Describes every picture truly, in letters whose meaning is one of four by the picture: nobody else sees which."""
    out = []
    for text in texts:
        picture = text.split("\n")[0]
        shift = _lot(picture, MODULUS)
        cells = "".join(f"{c}{CODES[(n + shift) % MODULUS]}" for c, n in counted(picture).items())
        out.append(f"+{shift}{cells}")
    return out


def counter(texts: Sequence[str]) -> list[str]:
    """Adds up the first two numbers of a description, which stands behind the question; answers 0 where it has none."""
    out = []
    for text in texts:
        numbers = [int(number) for number in re.findall(r"\d+", text)][:2]
        out.append(f"{' + '.join(map(str, numbers))} = {sum(numbers)}. The answer is {sum(numbers)}.")
    return out
