"""Preferences: a file or a data set whose rows hold a prompt, a chosen and a rejected answer (the shape that TRL reads)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anypo.errors import UserError
from anypo.tasks.base import Problem, Reply
from anypo.tasks.text import files
from anypo.tasks.text.chats import chat, said
from anypo.tasks.text.onestep import identify
from anypo.tasks.text.rows import Data, column, optional
from anypo.tasks.text.sides import Sides

COLUMNS = ("prompt", "chosen", "rejected")
OPTIONS = {"heldout", "system", "split", "config"}


def is_pairs(name: str, options: Mapping[str, Any], fetch: bool = True) -> bool:
    """Whether the data are preferences: their first row has the columns chosen and rejected. `fetch`: ask a hub for it."""
    given = {**files.KNOWN.get(name, {}), **options}
    data = Data(name, str(given.get("split", "train")), str(given.get("config", "")))
    if data.refuse() or (data.hub and not fetch):
        return False
    try:
        _, row = next(data.rows(), ("", {}))
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
            f"task '{name}' holds preferences, which have no option '{extra[0]}'; there are: {', '.join(sorted(OPTIONS))}"
        )
    return {"name": name, **plain}


def load(name: str, options: Mapping[str, Any]) -> PairTask:
    """The task, with every row of the file read and checked."""
    parse(name, options)
    checked = files.options_of(name, options)
    sides = files.divided(name, checked, lambda data: _problems(data, checked.system))
    return PairTask(sides.training, sides.held, sides.overlap, files.sources(name, checked)[0])


@dataclass(frozen=True, eq=False)
class PairTask(Sides):
    """Pairs as problems: `solution` is the chosen answer, ``metadata["rejected"]`` the other. Nobody judges an answer, so there are no
    rewards; the score is the share of held-out pairs that the policy ranks right. Satisfies `anypo.tasks.base.Task`."""

    data: Data = field(default_factory=lambda: Data(""))
    labelled: ClassVar[bool] = False
    scorer: ClassVar[str] = "pairs"
    outcome: ClassVar[str] = ""
    weights: ClassVar[Mapping[str, float]] = {}
    stored: ClassVar[bool] = True
    turns: ClassVar[int] = 1

    @property
    def name(self) -> str:
        return self.data.path.stem

    def environment(self, problem: Problem) -> _Unjudged:
        return _Unjudged(problem)

    def describe(self) -> dict[str, Any]:
        source = {**self.data.identity(), "columns": COLUMNS}
        return {"name": self.name, "source": source, "train": len(self), "heldout": self.n_heldout}


class _Unjudged:
    """One answer, and no verdict."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def reset(self) -> tuple[Any, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({})


def _problems(data: Data, system: str) -> list[Problem]:
    found = [_problem(row, system, where) for where, row in data.rows()]
    if not found:
        raise UserError(f"{data} has no pairs: it is empty")
    return found


def _problem(row: Mapping[str, Any], system: str, where: str) -> Problem:
    asked, chosen, rejected = (column(row, name, where) for name in COLUMNS)
    if isinstance(asked, str):
        if not asked.strip():
            raise UserError(f"{where}: the prompt is empty")
        asked = [{"role": "user", "content": asked}]
    messages = chat(asked, "prompt", where, system, optional(row, "tools", where))
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
