"""The user's own questions and answers: a file or a data set with one problem per row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from anypo.errors import UserError
from anypo.tasks.base import Problem
from anypo.tasks.pool import Pool
from anypo.tasks.text.chats import chat, said, with_tools
from anypo.tasks.text.hints import levels
from anypo.tasks.text.onestep import OneStepTask, conversation, fill, identify
from anypo.tasks.text.options import TaskOptions, choose_verifier, read
from anypo.tasks.text.rewards import complete
from anypo.tasks.text.rows import ENDINGS, Data, column, columns, optional, saved, text
from anypo.tasks.text.scoring import Scorer, prepare
from anypo.tasks.text.sides import Sides
from anypo.tasks.text.verifiers import Exact, MathVerify, Numeric, Unjudged, Verifier

SHAPES: dict[str, dict[str, Any]] = {
    "gsm8k": {"prompt": "question", "solution": "answer", "verifier": "numeric"},
    "verl": {"answer": "reward_model.ground_truth"},
}
"""Options that well-known shapes of rows stand for; what the user says comes first."""

KNOWN = {"openai/gsm8k": {"shape": "gsm8k", "config": "main"}}
"""Data sets whose shape is known by their id."""

BENCHMARKS: dict[str, tuple[str, dict[str, Any]]] = {"gsm8k": ("openai/gsm8k", {"heldout": "test"})}
"""Benchmarks by a short name: the data set, from the `datasets` library's cache or a hub, and what is trained on and asked."""


class FileOptions(TaskOptions):
    """Options of a task from a file or a data set.

    shape: a well-known one (`SHAPES`), which sets the columns. split / config: of a data set (not of a file).
    prompt / answer / solution: column names, with dots to reach inside; the prompt is a text or a list of role/content messages,
    the answer a text, number or structure (an empty column name: there are none, so nothing is judged unless a verifier is named),
    the solution a worked answer for supervised warm starts. hints: the column of what may be shown to help (`anypo.tasks.text.hints`).
    template: what is asked, from {prompt} and the other columns (text prompts only). heldout: a second file, another split of a
    data set, or the fraction of different prompts kept for evaluation. graded: keep the verifier's partial credit.
    """

    shape: Literal["", "gsm8k", "verl"] = ""
    split: str = Field("train", min_length=1)
    config: str = ""
    prompt: str = Field("prompt", min_length=1)
    answer: str = "answer"
    solution: str = ""
    hints: str = ""
    template: str = "{prompt}"
    heldout: float | str = 0.1
    verifier: Any = None
    graded: bool = True

    @field_validator("heldout")
    @classmethod
    def _fraction_or_path(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return value
        if not 0.0 <= value < 1.0:
            raise ValueError("give a fraction from 0 (nothing is held out) to below 1, or the path of a second file")
        return value


def is_file(name: str) -> bool:
    """Whether a task name is meant as a path, or as the id of a data set."""
    return name.lower().endswith(ENDINGS) or "/" in name or saved(name)


def options_of(name: str, options: Mapping[str, Any]) -> FileOptions:
    """`options` checked, with those that its shape stands for (`UserError`)."""
    given = {**KNOWN.get(name, {}), **options}
    shape = SHAPES.get(str(given.get("shape", "")), {})
    return read(FileOptions, name, {**shape, **given})


def sources(name: str, options: FileOptions) -> list[Data]:
    """Where the rows are, and where the held-out ones are if they stand apart; `UserError` when one cannot be read."""
    found = [Data(name, options.split, options.config)]
    if isinstance(options.heldout, str):
        own = found[0].file or options.heldout.lower().endswith(ENDINGS) or "/" in options.heldout
        found.append(Data(options.heldout) if own else Data(name, options.heldout, options.config))
    for data in found:
        if reason := data.refuse():
            raise UserError(reason)
    return found


def divided(
    name: str, options: FileOptions, read: Callable[[Data], Sequence[Problem]], held: Sequence[Data] = ()
) -> Sides:
    """The problems that `read` makes of the rows, on the two sides that the options say."""
    data, *apart = held or sources(name, options)
    problems = read(data)
    if apart and apart[0] == data:
        return Sides(problems, problems)  # a run that is to learn its file by heart
    if apart:
        return Sides.apart(problems, read(apart[0]), (name, str(options.heldout)))
    assert isinstance(options.heldout, float)
    return Sides.split(problems, options.heldout, name)


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked without reading the file (`UserError`)."""
    checked = options_of(name, options)
    sources(name, checked)
    choose_verifier(checked.verifier, Exact() if checked.answer else Unjudged(), None)
    return {"name": name, **options}


def load(name: str, options: Mapping[str, Any], held: Sequence[Data] = ()) -> OneStepTask:
    """The task, with every row read and checked. held: rows that are in memory, and the held-out ones if they stand apart."""
    if not held:
        parse(name, options)
    checked = options_of(name, options)
    verifier = choose_verifier(checked.verifier, Exact() if checked.answer else Unjudged(), None)
    source = file_source(name, checked, verifier, held)
    components = complete(checked.rewards, verifier, checked.graded)
    scorer = Scorer(components, checked.timeout, Pool(checked.workers, (prepare, (components,)), checked.memory))
    if scorer.isolated:
        scorer.pool.check()
    return OneStepTask(Path(name).stem, source, scorer)


@dataclass(frozen=True, eq=False)
class FileSource(Sides):
    """All problems of a file or a data set in their order, on two sides (`Source`).

    Rows that repeat prompt and answer of an earlier row are dropped; one prompt with several answers makes several problems, all
    on one side. Training rows whose prompt is in the held-out file are dropped. `provenance` counts both.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict)
    stored: ClassVar[bool] = True

    def describe(self) -> dict[str, Any]:
        return {**self.provenance, "train": len(self), "heldout": self.n_heldout}


def file_source(name: str, options: FileOptions, verifier: Verifier, held: Sequence[Data] = ()) -> FileSource:
    """The rows of `name` as problems."""
    repeated = 0

    def read_once(data: Data) -> list[Problem]:
        nonlocal repeated
        problems, more = _unique(_problems(data, options, verifier))
        repeated += more
        return problems

    data, *apart = held or sources(name, options)
    sides, provenance = divided(name, options, read_once, held), data.identity()
    if apart:
        provenance |= {f"heldout_{key}": value for key, value in apart[0].identity().items()}
    else:
        provenance["split_by"] = f"a hash of the prompt, {options.heldout:g} held out"
    provenance["columns"] = options.model_dump(
        include={"shape", "prompt", "answer", "solution", "hints", "template", "system"}
    )
    provenance["dropped"] = {"repeated": repeated, "in_heldout": sides.overlap}
    return FileSource(sides.training, sides.held, sides.overlap, provenance)


def _unique(problems: Iterator[Problem]) -> tuple[list[Problem], int]:
    """The problems without those whose prompt and answer came before, and how many these were."""
    kept: dict[tuple[int, str], Problem] = {}
    repeated = 0
    for problem in problems:
        key = (problem.prompt, problem.answer)
        repeated += key in kept
        kept.setdefault(key, problem)
    return list(kept.values()), repeated


def _problems(data: Data, options: FileOptions, verifier: Verifier) -> Iterator[Problem]:
    empty = True
    for where, row in data.rows():
        problem = _problem(row, options, where)
        refusal = verifier.refuse_problem(problem) or _worked(problem.answer, verifier)
        if refusal:
            raise UserError(f"{where}: {refusal}, so the verifier '{verifier.part}' cannot judge it")
        empty = False
        yield problem
    if empty:
        raise UserError(f"{data} has no problems: it is empty")


def _worked(answer: str, verifier: Verifier) -> str | None:
    """Why an answer that is a whole worked solution cannot be compared with anything."""
    if isinstance(verifier, (Exact, Numeric, MathVerify)) and re.search(r"\n#### .+\s*$", answer):
        return "the answer is a worked solution that ends with '#### ...' (read by --task-set shape=gsm8k)"
    return None


def _after_marker(answer: str, name: str, where: str) -> str:
    """What GSM8K's answers end with, after "####"."""
    _, marker, number = answer.rpartition("####")
    if not marker or not number.strip():
        raise UserError(f"{where}: column '{name}' does not end with '#### ...', as answers of the shape gsm8k do")
    return number.strip()


def _problem(row: Mapping[str, Any], options: FileOptions, where: str) -> Problem:
    asked, tools = column(row, options.prompt, where), optional(row, "tools", where)
    answer = text(column(row, options.answer, where), options.answer, where) if options.answer else ""
    solution = _solution(column(row, options.solution, where), options.solution, where) if options.solution else ""
    if options.shape == "gsm8k":
        answer = _after_marker(answer, options.answer, where) if answer else ""
        solution = re.sub(r"<<[^<>]*>>", "", solution)  # notes for a calculator
    if isinstance(asked, str):
        columns(options.template, {**row, "prompt": asked}, where)
        content = fill(options.template, {**row, "prompt": asked}, where)
        if not content.strip():
            raise UserError(f"{where}: the prompt is empty")
        messages = with_tools(conversation(content, options.system), tools if isinstance(tools, list) else None, where)
    else:
        messages = chat(asked, options.prompt, where, options.system, tools)
    own = {options.prompt, options.answer, options.solution, options.hints}
    hints = levels(optional(row, options.hints, where), options.hints, where) if options.hints else ()
    return Problem(
        prompt=identify(messages),
        messages=messages,
        answer=answer,
        solution=solution,
        metadata={key: value for key, value in row.items() if key not in own},
        place=where,
        hints=hints,
    )


def _solution(value: Any, column: str, where: str) -> str:
    """A worked answer: a text, or the one message of a list."""
    messages = isinstance(value, list) and value and isinstance(value[0], Mapping) and "role" in value[0]
    return said(value, column, where) if messages else text(value, column, where)
