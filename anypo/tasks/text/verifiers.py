"""Verifiers: is this text a right answer to this problem? Parts of the slot ``verifier``.

A verifier finds the answer in the text (`extract`, see `anypo.tasks.text.extract`) and scores it: 1 right, 0 wrong, between for
partial credit. No answer found is 0. It may raise; `anypo.tasks.text.scoring` records that. A verifier whose running time is not
bounded by its own code says so with `isolated`, and is then run in a worker process with a hard time limit.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from importlib import metadata
from typing import Any, ClassVar
from unicodedata import normalize

from pydantic import Field, field_validator

from anypo.callables import accepted, imported, one_answer, source, spelled
from anypo.parts import Part
from anypo.tasks.base import Problem
from anypo.tasks.text.answers.figures import value
from anypo.tasks.text.answers.numbers import number, readings
from anypo.tasks.text.answers.symbols import claimed, symbolic
from anypo.tasks.text.extract import ExtractName, extract


class Verifier(Part, slot="verifier"):
    """Says how right a text is."""

    extract: ExtractName = "whole"

    def verify(self, problem: Problem, text: str) -> float:
        """The score of `text`, usually in [0, 1]; whatever the scoring code raises comes through."""
        found = extract(self.extract, text)
        return 0.0 if found is None else float(self.score(found, problem))

    def score(self, found: str, problem: Problem) -> float:
        """The score of the extracted answer."""
        raise NotImplementedError

    def refuse_problem(self, problem: Problem) -> str | None:
        """Why this verifier cannot judge `problem`, or None."""
        return None if problem.answer.strip() else "the answer is empty"

    def isolated(self) -> bool:
        """Whether it must run under a hard time limit in a process of its own."""
        return False

    def isolates(self, problem: Problem) -> bool:
        """The same for one problem, where its answer decides it."""
        return self.isolated()

    def prepare(self) -> None:
        """Import what `score` needs (called once per worker process, outside the time limit)."""

    def identity(self) -> dict[str, Any]:
        """Provenance: the fields, and the version of the code behind them."""
        return self.dump()


class Unjudged(Verifier, name="none"):
    """There is nothing to judge by: prompts without answers, for training on pseudo-rewards. Every text scores 0."""

    def score(self, found: str, problem: Problem) -> float:
        return 0.0

    def refuse_problem(self, problem: Problem) -> str | None:
        return None


class Exact(Verifier, name="exact"):
    """The answer, letter for letter, in whichever Unicode normal form; runs of white space count as one space.

    An answer that is a truth value ("true", "false") is right in any case.
    """

    ignore_case: bool = False

    def score(self, found: str, problem: Problem) -> float:
        mine, right = (" ".join(normalize("NFC", text).split()) for text in (found, problem.answer))
        any_case = self.ignore_case or right.lower() in {"true", "false"}
        return float(caseless(mine) == caseless(right) if any_case else mine == right)


class Numeric(Verifier, name="numeric"):
    r"""A number within |x - a| <= max(relative |a|, absolute) of the answer a: 1,234.5, 3/4, 1e-3, 50% (which is 0.5), \frac{3}{4}.

    The text may say more than the number (see `anypo.tasks.text.answers.numbers`), unless `extract` is ``whole``. An answer that is
    mathematics but no number (a root, a set, an interval, an expression) is compared by math-verify, in a worker.
    """

    extract: ExtractName = "last_number"
    relative: float = Field(1e-6, ge=0.0)
    absolute: float = Field(0.0, ge=0.0)

    def verify(self, problem: Problem, text: str) -> float:
        return self.score(text, problem) if self.extract == "last_number" else super().verify(problem, text)

    def score(self, found: str, problem: Problem) -> float:
        right = number(problem.answer)
        if right is None and symbolic(problem.answer):
            return MathVerify().score(found if self.extract == "whole" else claimed(found), problem)
        if right is None:
            raise ValueError(f"the answer {problem.answer!r} is not a number")
        mine = [number(found)] if self.extract == "whole" else [value(reading) for reading in readings(found)]
        tolerance = max(Fraction(self.relative) * abs(right), Fraction(self.absolute))
        return float(any(one is not None and abs(one - right) <= tolerance for one in mine))

    def refuse_problem(self, problem: Problem) -> str | None:
        if number(problem.answer) is None and not symbolic(problem.answer):
            return f"the answer {problem.answer[:80]!r} is not a number"
        return None

    def isolates(self, problem: Problem) -> bool:
        return number(problem.answer) is None and symbolic(problem.answer)

    def prepare(self) -> None:
        MathVerify().prepare()


class Regex(Verifier, name="regex"):
    """The extracted text matches `pattern` as a whole; an empty pattern means that the problem's answer is the pattern."""

    pattern: str = ""
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return compiles(pattern)

    def score(self, found: str, problem: Problem) -> float:
        flags = re.DOTALL | (re.IGNORECASE if self.ignore_case else 0)
        return float(re.fullmatch(self.pattern or problem.answer, found, flags) is not None)

    def refuse_problem(self, problem: Problem) -> str | None:
        if not self.pattern and not problem.answer:
            return "the answer is empty"
        try:
            compiles(self.pattern or problem.answer)
        except ValueError as error:
            return str(error)
        return None

    def isolated(self) -> bool:
        return True  # backtracking may take exponential time


class MathVerify(Verifier, name="math_verify"):
    r"""Mathematical equality by the math-verify package: 1/2, 0.5, \frac{1}{2} and 50\% are one answer.

    An answer without LaTeX delimiters is read as LaTeX mathematics. Of a longer text the last `LONGEST` characters are read.
    """

    LONGEST: ClassVar[int] = 100_000

    def score(self, found: str, problem: Problem) -> float:
        from math_verify import parse, verify

        gold = problem.answer
        if "$" not in gold and "\\boxed" not in gold and "\\(" not in gold and "\\[" not in gold:
            gold = f"${gold}$"
        # Its own limits use SIGALRM, which only works in main threads and not inside C code; the worker's limit does.
        right = parse(gold, parsing_timeout=None)
        if not right:
            raise ValueError(f"math-verify cannot read the answer {problem.answer[:80]!r}")
        return float(verify(right, parse(found[-self.LONGEST :], parsing_timeout=None), timeout_seconds=None))

    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        import math_verify

        logging.getLogger(math_verify.__name__).setLevel(logging.CRITICAL)
        self.score("$1$", Problem(0, (), answer="1"))

    def identity(self) -> dict[str, Any]:
        return self.dump() | {"versions": versions("math-verify", "latex2sympy2_extended", "sympy")}


class MultipleChoice(Verifier, name="multiple_choice"):
    """The letter of the right choice, as in "B", "(b)" or "B)" on the answer's side."""

    extract: ExtractName = "choice"

    def score(self, found: str, problem: Problem) -> float:
        return float(found.strip(" ().:").upper() == problem.answer.strip(" ().:").upper())

    def refuse_problem(self, problem: Problem) -> str | None:
        letter = problem.answer.strip(" ().:")
        if len(letter) != 1 or not letter.isalpha():
            return f"the answer {problem.answer[:80]!r} is not the letter of a choice"
        return None


class Python(Verifier, name="python"):
    """The user's own ``function(prediction: str, answer: str, metadata: dict) -> float | bool``, or of the first one or two of
    these, as ``module:function``.

    `prediction` is the extracted text; `metadata` what the problem carries beside its answer (other columns of the file).
    """

    function: str

    @field_validator("function")
    @classmethod
    def _spelled(cls, function: str) -> str:
        return spelled(function)

    def score(self, found: str, problem: Problem) -> float:
        function = imported(self.function)
        return float(function(*(found, problem.answer, dict(problem.metadata))[: accepted(function)]))

    def refuse_problem(self, problem: Problem) -> str | None:
        return None  # the function may need no answer

    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        one_answer(imported(self.function))

    def identity(self) -> dict[str, Any]:
        return self.dump() | source(self.function)


def caseless(text: str) -> str:
    """The form in which canonical caseless matches are equal (Unicode standard, section 3.13, D145)."""
    return normalize("NFD", normalize("NFD", text).casefold())


def compiles(pattern: str) -> str:
    """`pattern` itself; ValueError when it is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern[:80]!r} is not a regular expression ({error})") from None
    return pattern


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {package: metadata.version(package) for package in packages}
