"""Preferences: a JSONL or Parquet file whose rows hold a prompt, a chosen and a rejected answer (the shape that TRL reads)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo.errors import UserError
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text import files
from anypo.tasks.text.chats import chat, said
from anypo.tasks.text.onestep import identify

COLUMNS = ("prompt", "chosen", "rejected")
OPTIONS = {"heldout", "system"}


def is_pairs(name: str) -> bool:
    """Whether a file is one of preferences: its first row has the columns chosen and rejected."""
    path = Path(name)
    if path.suffix not in files.ENDINGS or not path.is_file():
        return False
    try:
        _, row = next(files.rows(path), ("", {}))
    except UserError:
        return False  # whoever loads it says what is wrong
    return "chosen" in row and "rejected" in row


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked (`UserError`): ``heldout`` (a second file, or the fraction of prompts kept for evaluation) and ``system``."""
    plain = dict(options)
    columns = {"answer": ""}
    files.parse(name, plain | columns)
    if extra := sorted(set(plain) - OPTIONS):
        raise UserError(
            f"task '{name}' holds preferences, which have no option '{extra[0]}'; there are: heldout, system"
        )
    return {"name": name, **plain}


def load(name: str, options: Mapping[str, Any]) -> PairTask:
    """The task, with every row of the file read and checked."""
    parse(name, options)
    checked = files.read(files.FileOptions, name, options)
    path = Path(name)
    problems = _problems(path, checked.system)
    if isinstance(checked.heldout, str):
        held = _problems(Path(checked.heldout), checked.system)
        asked = {problem.prompt for problem in held}
        training = [problem for problem in problems if problem.prompt not in asked]
        if not training:
            raise UserError(f"every prompt of '{path}' is also in the held-out file '{checked.heldout}'")
    else:
        training, held = files.split(problems, checked.heldout, path)
    return PairTask(path, training, held)


class PairTask:
    """Pairs as problems: `solution` is the chosen answer, ``metadata["rejected"]`` the other. Nobody judges an answer, so there are no
    rewards; the score is the share of held-out pairs that the policy ranks right. Satisfies `anypo.tasks.base.Task`."""

    labelled = False
    stored = True
    scorer = "pairs"
    outcome = ""
    weights: Mapping[str, float] = {}

    def __init__(self, path: Path, training: list[Problem], held: list[Problem]) -> None:
        self.name, self.path = path.stem, path
        self._train, self._heldout = training, held

    def __len__(self) -> int:
        return len(self._train)

    @property
    def n_heldout(self) -> int:
        return len(self._heldout)

    def train(self, index: int) -> Problem:
        return self._train[index]

    def heldout(self, index: int) -> Problem:
        return self._heldout[index]

    def environment(self, problem: Problem) -> _Unjudged:
        return _Unjudged(problem)

    def describe(self) -> dict[str, Any]:
        source = {"path": str(self.path), "sha256": files.sha256(self.path), "columns": COLUMNS}
        return {"name": self.name, "source": source, "train": len(self), "heldout": self.n_heldout}


class _Unjudged:
    """One answer, and no verdict."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> tuple[Any, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({})


def _problems(path: Path, system: str) -> list[Problem]:
    found = [_problem(row, system, where) for where, row in files.rows(path)]
    if not found:
        raise UserError(f"'{path}' has no pairs: it is empty")
    return found


def _problem(row: Mapping[str, Any], system: str, where: str) -> Problem:
    asked, chosen, rejected = (files.column(row, name, where) for name in COLUMNS)
    if isinstance(asked, str):
        if not asked.strip():
            raise UserError(f"{where}: the prompt is empty")
        asked = [{"role": "user", "content": asked}]
    messages = chat(asked, "prompt", where, system, row.get("tools"))
    better, worse = _answer(chosen, "chosen", where), _answer(rejected, "rejected", where)
    if better == worse:
        raise UserError(f"{where}: the chosen and the rejected answer are the same, so there is nothing to prefer")
    return Problem(identify(messages), messages, solution=better, metadata={"rejected": worse}, place=where)


def _answer(value: Any, name: str, where: str) -> str:
    """The text of an answer: a text, or the one message of a list."""
    text = said(value, name, where)
    if not text.strip():
        raise UserError(f"{where}: the {name} answer is empty")
    return text
