"""The user's own questions and answers: a JSONL or Parquet file with one problem per row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from anypo.data.records import prompt_id
from anypo.errors import UserError, nearest
from anypo.tasks.base import Problem
from anypo.tasks.pool import Pool
from anypo.tasks.text.chats import chat, said, with_tools
from anypo.tasks.text.onestep import OneStepTask, conversation, fill, identify
from anypo.tasks.text.options import TaskOptions, choose_verifier, read
from anypo.tasks.text.rewards import complete
from anypo.tasks.text.scoring import Scorer, prepare
from anypo.tasks.text.verifiers import Exact, Unjudged, Verifier

ENDINGS = (".jsonl", ".parquet")


class FileOptions(TaskOptions):
    """Options of a task from a file.

    prompt / answer / solution: column names; the prompt is a text or a list of role/content messages, the answer a text,
    number or structure (an empty column name: there are none, so nothing is judged unless a verifier is named), the solution a
    worked answer for supervised warm starts.
    template: what is asked, from {prompt} and the other columns (text prompts only). heldout: a second file, or the
    fraction of different prompts kept for evaluation. graded: keep the verifier's partial credit.
    """

    prompt: str = Field("prompt", min_length=1)
    answer: str = "answer"
    solution: str = ""
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
        if not 0.0 < value < 1.0:
            raise ValueError("give a fraction between 0 and 1, or the path of a second file")
        return value


def is_file(name: str) -> bool:
    """Whether a task name is meant as a path."""
    return name.endswith((*ENDINGS, ".json", ".csv", ".ndjson")) or "/" in name


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked without reading the file (`UserError`)."""
    checked = read(FileOptions, name, options)
    for path in [name, *([checked.heldout] if isinstance(checked.heldout, str) else [])]:
        if not path.endswith(ENDINGS):
            raise UserError(f"task file '{path}' needs the ending {' or '.join(ENDINGS)}")
        if not Path(path).is_file():
            raise UserError(f"there is no task file '{path}'")
    choose_verifier(checked.verifier, Exact() if checked.answer else Unjudged(), None)
    return {"name": name, **options}


def load(name: str, options: Mapping[str, Any]) -> OneStepTask:
    """The task, with every row of the file read and checked."""
    parse(name, options)
    checked = read(FileOptions, name, options)
    verifier = choose_verifier(checked.verifier, Exact() if checked.answer else Unjudged(), None)
    source = FileSource(Path(name), checked, verifier)
    components = complete(checked.rewards, verifier, checked.graded)
    scorer = Scorer(components, checked.timeout, Pool(checked.workers, (prepare, (components,))))
    if scorer.isolated:
        scorer.pool.check()
    return OneStepTask(Path(name).stem, source, scorer)


class FileSource:
    """All problems of a file in its order, split into two sides (`Source`).

    Rows that repeat prompt and answer of an earlier row are dropped; one prompt with several answers makes several problems, all
    on one side. Training rows whose prompt is in the held-out file are dropped. `dropped` counts both.
    """

    stored = True

    def __init__(self, path: Path, options: FileOptions, verifier: Verifier) -> None:
        self.path, self.options = path, options
        self.dropped = {"repeated": 0, "in_heldout": 0}
        found = self._unique(_problems(path, options, verifier))
        if isinstance(options.heldout, str):
            held = self._unique(_problems(Path(options.heldout), options, verifier))
            asked = {problem.prompt for problem in held}
            training = [problem for problem in found if problem.prompt not in asked]
            self.dropped["in_heldout"] = len(found) - len(training)
            if not training:
                raise UserError(f"every prompt of '{path}' is also in the held-out file '{options.heldout}'")
        else:
            training, held = split(found, options.heldout, path)
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

    def describe(self) -> dict[str, Any]:
        out: dict[str, Any] = {"path": str(self.path), "sha256": sha256(self.path)}
        if isinstance(self.options.heldout, str):
            out |= {"heldout_path": self.options.heldout, "heldout_sha256": sha256(Path(self.options.heldout))}
        else:
            out["split"] = f"by a hash of the prompt, {self.options.heldout:g} held out"
        columns = self.options.model_dump(include={"prompt", "answer", "solution", "template", "system"})
        return out | {"columns": columns, "train": len(self), "heldout": self.n_heldout, "dropped": self.dropped}

    def _unique(self, problems: Iterator[Problem]) -> list[Problem]:
        kept: dict[tuple[int, str], Problem] = {}
        for problem in problems:
            key = (problem.prompt, problem.answer)
            self.dropped["repeated"] += key in kept
            kept.setdefault(key, problem)
        return list(kept.values())


def split(problems: list[Problem], fraction: float, path: Path) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems: by a hash of the prompt, so that added rows move no other row."""
    places = {problem.prompt: prompt_id(f"heldout:{problem.prompt}") / 2**63 for problem in problems}
    if len(places) < 2:
        raise UserError(f"'{path}' has only one different prompt; a train and a held-out side need at least two")
    chosen = {prompt for prompt, place in places.items() if place < fraction}
    ranked = sorted(places, key=lambda prompt: places[prompt])
    chosen = (chosen or {ranked[0]}) - ({ranked[-1]} if len(chosen) == len(ranked) else set())
    return [p for p in problems if p.prompt not in chosen], [p for p in problems if p.prompt in chosen]


def _problems(path: Path, options: FileOptions, verifier: Verifier) -> Iterator[Problem]:
    empty = True
    for where, row in rows(path):
        problem = _problem(row, options, where)
        refusal = verifier.refuse_problem(problem)
        if refusal:
            raise UserError(f"{where}: {refusal}, so the verifier '{verifier.part}' cannot judge it")
        empty = False
        yield problem
    if empty:
        raise UserError(f"'{path}' has no problems: it is empty")


def _problem(row: Mapping[str, Any], options: FileOptions, where: str) -> Problem:
    asked = column(row, options.prompt, where)
    answer = _text(column(row, options.answer, where), options.answer, where) if options.answer else ""
    solution = _solution(column(row, options.solution, where), options.solution, where) if options.solution else ""
    if isinstance(asked, str):
        content = fill(options.template, {**row, "prompt": asked}, where)
        if not content.strip():
            raise UserError(f"{where}: the prompt is empty")
        tools = row.get("tools") if isinstance(row.get("tools"), list) else None
        messages = with_tools(conversation(content, options.system), tools, where)
    else:
        messages = chat(asked, options.prompt, where, options.system, row.get("tools"))
    own = {options.prompt, options.answer, options.solution}
    return Problem(
        prompt=identify(messages),
        messages=messages,
        answer=answer,
        solution=solution,
        metadata={key: value for key, value in row.items() if key not in own},
        place=where,
    )


def column(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise UserError(f"{where}: there is no column '{name}'.{nearest(name, map(str, row))}")
    if row[name] is None:
        raise UserError(f"{where}: column '{name}' is empty")
    return row[name]


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UserError(f"{where}: column '{column}' holds a {type(value).__name__}, not a text or a number") from None


def _solution(value: Any, column: str, where: str) -> str:
    """A worked answer: a text, or the one message of a list."""
    messages = isinstance(value, list) and value and isinstance(value[0], Mapping) and "role" in value[0]
    return said(value, column, where) if messages else _text(value, column, where)


def rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row with the place to name in messages."""
    return _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"'{path}' line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
                except RecursionError:
                    raise UserError(f"{where} is not usable JSON: it is nested too deeply") from None
                if not isinstance(row, dict):
                    raise UserError(f"{where} is a JSON {type(row).__name__}, not an object with columns")
                yield where, row
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text after line {number}: {error.reason}") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"'{path}' row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{path}' is damaged or no Parquet file (after row {number}): {reason}") from None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
