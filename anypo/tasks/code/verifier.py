"""Is this program right? It is run inside the walls of `anypo.sandbox`, never outside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from anypo.errors import UserError
from anypo.sandbox import Jail, refusal
from anypo.tasks.base import Problem
from anypo.tasks.text.extract import ExtractName
from anypo.tasks.text.verifiers import Verifier


class Trial(NamedTuple):
    """One test: statements that run after the program in its names, or what it reads and is to print."""

    statements: str = ""
    stdin: str = ""
    stdout: str = ""


class Program(Verifier, name="program"):
    """A Python program, the last block of code in the text, passes every test of the problem; with `partial`, the share it passes.

    The tests are the answer, or the column ``tests``: statements (``assert f(2) == 3``), a list of them, a list of mappings with
    ``input`` and ``output``, or one mapping of lists ``inputs`` and ``outputs``; as JSON where they are text. With `entry`, tests
    that define ``check`` are called with the function of that name (a column ``entry_point`` says it for its row). Printed text is
    compared line by line without the white space at the ends. What a test compares with ``==`` must be equal plain values: an
    object that calls itself equal to everything is not. seconds: of one test; memory: megabytes.
    """

    extract: ExtractName = "code"
    seconds: float = Field(2.0, gt=0.0)
    memory: int = Field(512, ge=64)
    partial: bool = False
    entry: str = ""

    def score(self, found: str, problem: Problem) -> float:
        jail, trials, passed = Jail(self.seconds, self.memory), self.trials(problem), 0
        for trial in trials:
            ran = jail.run(found, trial.stdin, trial.statements)
            right = bool(ran.report and ran.report.get("passed") is True) and not ran.why
            if right and not trial.statements:
                right = _lines(ran.stdout) == _lines(trial.stdout)
            passed += right
            if not right and not self.partial:
                return 0.0
        return passed / len(trials)

    def trials(self, problem: Problem) -> list[Trial]:
        """The tests of a problem, at least one. ValueError where they cannot be read."""
        tests = problem.metadata.get("tests", problem.answer)
        return trials_of(tests, str(problem.metadata.get("entry_point") or self.entry))

    def refuse_problem(self, problem: Problem) -> str | None:
        try:
            self.trials(problem)
        except ValueError as error:
            return str(error)
        return None

    def isolated(self) -> bool:
        return True  # so that several are run side by side

    def prepare(self) -> None:
        if reason := refusal():
            raise UserError(reason)


def trials_of(tests: Any, entry: str = "") -> list[Trial]:
    """The tests in what a data set keeps of them (see `Program`). ValueError where they cannot be read."""
    if isinstance(tests, str):
        if tests.lstrip()[:1] in {"[", "{"}:
            try:
                return trials_of(json.loads(tests), entry)
            except json.JSONDecodeError:
                pass
        if not tests.strip():
            raise ValueError("there are no tests to judge a program by")
        called = f"\ncheck({entry})" if entry and "def check(" in tests else ""
        try:
            compile(tests, "tests", "exec")
        except SyntaxError as error:
            raise ValueError(f"the tests are not Python (line {error.lineno}: {error.msg})") from None
        return [Trial(tests + called)]
    if isinstance(tests, Mapping) and {"inputs", "outputs"} <= tests.keys():
        pairs = zip(tests["inputs"], tests["outputs"], strict=True)
        found = [Trial(stdin=_text(given), stdout=_text(wanted)) for given, wanted in pairs]
    elif isinstance(tests, Sequence):
        found = [trial for test in tests for trial in _one(test, entry)]
    else:
        found = []
    if not found:
        raise ValueError(
            "tests are statements, a list of them or of mappings with 'input' and 'output', or a mapping of 'inputs' and 'outputs'"
        )
    return found


def _one(test: Any, entry: str) -> list[Trial]:
    if isinstance(test, str):
        return trials_of(test, entry) if test.strip() else []
    if isinstance(test, Mapping) and {"input", "output"} <= test.keys():
        return [Trial(stdin=_text(test["input"]), stdout=_text(test["output"]))]
    raise ValueError(f"a test is a statement or a mapping with 'input' and 'output', not {str(test)[:60]}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
