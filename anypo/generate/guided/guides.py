"""What a policy may be shown beside a problem to help it, and where that comes from: hints, beginnings of a solution, examples."""

from __future__ import annotations

import functools
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from anypo.data.content import Message, parted, reworded
from anypo.errors import UserError
from anypo.generate.base import rollout_key
from anypo.parts import Part
from anypo.tasks.base import Problem, Task, hinted, worked
from anypo.tasks.text.hints import levels
from anypo.tasks.text.rows import Data, column

if TYPE_CHECKING:
    from anypo.data.records import Trajectory
    from anypo.generate.guided.guiding import Guiding

DRAWN = 59
"""The role of what is drawn for a prompt (examples, contexts) in its keys."""


@dataclass(frozen=True)
class Guide:
    """One thing to show: its `text`, the whole opening with it (`messages`), which of the problem's guides it is (`level`, from 0, the
    least telling first) and the `kind` that rollouts name as their guidance."""

    text: str
    messages: tuple[Message, ...]
    level: int
    kind: str


class Guides(Part, slot="guides"):
    """Where the guides of a prompt come from. template: the text of the opening's last message, with ``{prompt}`` and ``{guide}``."""

    kind: ClassVar[str]
    template: str

    @abstractmethod
    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        """For the asks at `places`, in order, what can be shown, the least telling first; nothing where there is nothing."""

    def ladders(self, places: Sequence[int], step: Guiding) -> list[list[Guide]]:
        """The same as guides."""
        return [
            [self.guide(step.problems[place], text, level) for level, text in enumerate(texts)]
            for place, texts in zip(places, self.texts(places, step))
        ]

    def guide(self, problem: Problem, text: str, level: int) -> Guide:
        """`text` shown with a problem."""
        told = lambda asked: self.template.replace("{prompt}", asked).replace("{guide}", text)
        return Guide(text, reworded(problem.messages, told), level, self.kind)

    def learn(self, problem: Problem, guide: Guide, answer: Trajectory, step: Guiding) -> None:
        """A rollout with a guide was right, and is to be imitated: what may be shown from now on."""

    def suits(self, task: Task) -> str | None:
        """A sentence saying why there is nothing to show in `task`, or None."""
        return None


class _FromFile(Guides):
    """Guides that may come from a file: rows of a JSONL, JSON, CSV or Parquet file."""

    file: str = Field("", description="file of guides; without one they are the task's")

    @field_validator("file")
    @classmethod
    def _whole(cls, file: str) -> str:
        """The whole path, so that the run can be resumed from anywhere."""
        return str(Path(file).expanduser().absolute()) if file and Path(file).expanduser().exists() else file


class Hints(_FromFile, name="hints"):
    """The hints of the problem itself (`anypo.tasks.base.Problem`), or those that a file has for its question.

    file: rows with the columns ``prompt`` (the question as it is asked) and ``hints`` (see `anypo.tasks.text.hints.levels`). take: all
    of a problem's hints, or only the last, which tells most.
    """

    kind = "hint"
    template: str = "{prompt}\n\nHere is a hint to help you:\n{guide}"
    take: Literal["all", "last"] = "all"

    def suits(self, task: Task) -> str | None:
        if self.file:
            known = _hints(self.file)
            most = min(len(task), LOOKED_AT)
            if any(question(task.train(index)) in known for index in range(most)):
                return None
            return f"{self.file} has no hints for its first {most} questions"
        return None if hinted(task) else UNHINTED

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        found = [self.of(step.problems[place]) for place in places]
        return [hints[-1:] if self.take == "last" else hints for hints in found]

    def of(self, problem: Problem) -> Sequence[str]:
        """A problem's hints."""
        return _hints(self.file).get(question(problem), ()) if self.file else problem.hints


LOOKED_AT = 4096
"""How many questions are looked at before a file is said to know none of them: hints may be there for the hard ones only."""

UNHINTED = (
    "it has no hints; name their column with --task-set hints=COLUMN, give a file with --set generate.guides.file=hints.jsonl, or "
    "choose a task that has them"
)


UNSOLVED = "it has no worked solutions to show; name their column with --task-set solution=COLUMN, or choose a task that has them"


class Prefixes(Guides, name="prefixes"):
    """Beginnings of the worked solution, `shares` of its characters (rounded) one after the other (GHPO, arXiv:2507.10628), at most as
    far as the answer is said for the last time; a step before it may say it, too. A solution of one word is an answer and no way to
    it: the problem's last hint then comes before it."""

    kind = "prefix"
    template: str = (
        "{prompt}\nThe following text is the beginning part of the answer, which you can refer to for solving the problem:\n"
        "{guide}"
    )
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
            raise ValueError("give rising shares above 0, at most 1")
        return shares

    def suits(self, task: Task) -> str | None:
        return None if traced(task) else UNSOLVED

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        return [begun(step.problems[place], self.shares) for place in places]


def begun(problem: Problem, shares: Sequence[float], silent: bool = False) -> list[str]:
    """The beginnings of a problem's way to its answer, without empty ones and without one twice. They end before the answer is said
    for the last time, silent: for the first time (where the question does not say it itself); before its last letter where it is all
    there is."""
    way = trace(problem)
    said = [found.start() for found in _whole(problem.answer).finditer(way)] or [way.rfind(problem.answer)]
    at = said[0] if silent and not _whole(problem.answer).search(question(problem)) else said[-1]
    most = len(way) if not problem.answer or at < 0 else at or len(problem.answer) - 1
    found = [way[: min(round(len(way) * share), most)] for share in shares]
    return [text for n, text in enumerate(found) if text.strip() and text not in found[:n]]


def _whole(answer: str) -> re.Pattern[str]:
    """Where `answer` is said and not a part of another word or number."""
    return re.compile(rf"(?<![\w.]){re.escape(answer)}(?!\w|[.,]\d)")


def trace(problem: Problem) -> str:
    """The way to the answer as text: the solution, or the last hint and it where it is a single word; '' where neither is known."""
    solution = problem.solution
    if not problem.hints or len(solution.split()) > 1 or solution.startswith(problem.hints[-1]):
        return solution if len(solution) > 1 else ""
    return f"{problem.hints[-1]}\n{solution}"


def traced(task: Task) -> bool:
    """Whether some of a task's first problems have a way to their answer."""
    return any(trace(task.train(index)) for index in range(min(len(task), 64)))


class Examples(_FromFile, name="examples"):
    """`count` other problems with their solutions, drawn with equal probability: from a file (columns ``prompt`` and ``solution``, or
    ``answer``), or among the task's training problems.

    example: the text of one, with ``{question}`` and ``{solution}``.
    """

    kind = "example"
    template: str = (
        "Before we get to the main problem, here are a few examples with their solution approaches for your reference.\n"
        "{guide}\n\nQuestion: {prompt}\nAnswer: "
    )
    count: int = Field(1, ge=1)
    example: str = "Question: {question}\nAnswer: {solution}"

    def suits(self, task: Task) -> str | None:
        if self.file:
            _examples(self.file)
            return None
        return None if worked(task) else UNSOLVED

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        out: list[Sequence[str]] = []
        for place in places:
            problem = step.problems[place]
            generator = np.random.default_rng(rollout_key(step.context, problem, step.asks[place].visit, DRAWN, 0))
            shown = self._from_file(generator) if self.file else self._from_task(step.world.task, problem, generator)
            told = [self.example.replace("{question}", q).replace("{solution}", s) for q, s in shown]
            out.append(["\n\n\n".join(told)] if told else [])
        return out

    def _from_file(self, generator: np.random.Generator) -> list[tuple[str, str]]:
        known = _examples(self.file)
        return [known[n] for n in generator.permutation(len(known))[: self.count]]

    def _from_task(self, task: Task, problem: Problem, generator: np.random.Generator) -> list[tuple[str, str]]:
        """Of the others; a few more are drawn than wanted, for this problem itself and for those without a solution."""
        drawn = [task.train(int(n)) for n in generator.integers(0, len(task), 4 * self.count + 4)]
        able = {p.prompt: (question(p), p.solution) for p in drawn if p.solution and p.prompt != problem.prompt}
        return list(able.values())[: self.count]


def question(problem: Problem) -> str:
    """What a problem asks: the text of the last message before the policy's turn."""
    before = parted(problem.messages)[0] or problem.messages
    return str(before[-1]["content"]) if before else ""


@functools.lru_cache(maxsize=4)
def _hints(file: str) -> Mapping[str, tuple[str, ...]]:
    """The hints of a file by question."""
    return {
        str(column(row, "prompt", where)): levels(column(row, "hints", where), "hints", where)
        for where, row in _rows(file)
    }


@functools.lru_cache(maxsize=4)
def _examples(file: str) -> tuple[tuple[str, str], ...]:
    """The questions of a file with their solutions."""
    known = [
        (str(column(row, "prompt", where)), str(column(row, "solution" if "solution" in row else "answer", where)))
        for where, row in _rows(file)
    ]
    if not known:
        raise UserError(f"{file} is empty; give a file of examples")
    return tuple(known)


def _rows(file: str) -> Any:
    data = Data(file)
    if not data.file or not Path(file).is_file():
        raise UserError(f"there is no file of guides at '{file}' (JSONL, JSON, CSV or Parquet)")
    return data.rows()


__all__ = ["Examples", "Guide", "Guides", "Hints", "Prefixes", "begun", "question", "trace", "traced"]
