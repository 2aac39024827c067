"""What the records of a run folder are, so that whoever reads them meets the types that were written.

A folder may come from another version, from an editor or from a stranger: what is missing has a default, what is not known is
left alone, and what is there has the type it is read as, or the folder is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anypo.data.records import ACTION
from anypo.errors import UserError
from anypo.parts import first_reason
from anypo.run.disk.rollouts import SCHEMA

Plain = dict[str, Any]
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number that every reader can count with, those of the page among them."""


class Shape(BaseModel):
    """A record of a run folder. Only what is read by name is named."""

    model_config = ConfigDict(extra="allow", strict=True)

    @classmethod
    def problem(cls, plain: Mapping[str, Any]) -> str:
        """What is wrong with a record, in a few words; '' when nothing is."""
        try:
            cls.model_validate(plain)
        except ValidationError as error:
            return first_reason(error)
        return ""


class Configuration(Shape):
    """`config.yaml`, as far as a report of any version needs it; `RunConfig` knows the rest."""

    system: str = ""
    model: str = ""
    task: str = ""
    init: str | None = ""
    task_options: Plain | None = None
    steps: Count | None = None
    seed: Count | None = None
    plugins: list[str] | None = None
    algorithm: Plain | None = None
    recipe: Recipe | None = None


class Recipe(Shape):
    """The stages of a run that has several."""

    stages: list[Stage] = []


class Stage(Shape):
    name: str = ""
    algorithm: Plain | None = None


class Task(Shape):
    outcome: str = ""


class Code(Shape):
    version: str = ""


class Manifest(Shape):
    """`manifest.json`."""

    created: str = ""
    command: str = ""
    supplied: Plain | None = None
    code: Code = Code()
    model: Plain | None = None
    task: Task | None = None


class Step(Shape):
    """A line of `metrics.jsonl`."""

    step: Count

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError(f"'{name}' is too large a number")
        return self


LARGEST = 10**300
"""Whole numbers beyond it are no floats."""


class Scored(Shape):
    """A line of `evaluations.jsonl`. Older runs knew nothing but accuracy."""

    label: str
    step: Count
    accuracy: float | None = None
    score: float | None = None
    low: float
    high: float
    unit: str = ""
    n: Count
    samples: Annotated[int, Field(ge=1, lt=2**53)] = 1
    pass_at: dict[str, float] | None = None

    @model_validator(mode="after")
    def _has_a_score(self) -> Self:
        if self.score is None and self.accuracy is None:
            raise ValueError("there is no score")
        if self.score is not None and not self.unit:
            raise ValueError("the score has no unit")
        return self


def check(file: Path, kind: type[Shape], found: Mapping[str, Any]) -> None:
    """Refuse a file whose content is of other types than its readers count on."""
    if problem := kind.problem(found):
        raise UserError(f"{file}: {problem}; it was changed, or another version wrote it: restore it from a copy")


def check_lines(file: Path, kind: type[Shape], entries: Sequence[Mapping[str, Any]], what: str) -> None:
    """The same for the records of a file of lines."""
    for number, entry in enumerate(entries, 1):
        if problem := kind.problem(entry):
            advice = "delete that line, or restore the file from a copy"
            raise UserError(f"{file}: entry {number} is not {what} ({problem}); {advice}")


# -- tables ----------------------------------------------------------------------------------------------------------------------

PER_TOKEN, PER_DECISION = ("roles", "pieces"), ("entropy", "advantages", "turns")
"""Lists that are as long as `tokens`, and as `logp`, where they are there at all."""


def conformed(table: pa.Table) -> pa.Table:
    """Rollouts in the columns of `SCHEMA` (those of an older run that lack one get nulls), checked so that every list has an entry
    for each token or decision. Raises `pa.ArrowInvalid`."""
    table.validate(full=True)
    for place, field in enumerate(SCHEMA):
        if field.name not in table.column_names:
            table = table.add_column(min(place, table.num_columns), field, pa.nulls(len(table), field.type))
        else:
            at = table.column_names.index(field.name)
            table = table.set_column(at, field, table.column(at).cast(field.type))
    if table.column("step").null_count or table.column("group_id").null_count:
        raise pa.ArrowInvalid("a rollout without step or group")
    for whole, lists in (("tokens", PER_TOKEN), ("logp", PER_DECISION)):
        for name in lists:
            same = pc.equal(pc.list_value_length(table.column(whole)), pc.list_value_length(table.column(name)))
            if pc.any(pc.invert(same)).as_py():
                raise pa.ArrowInvalid(f"{name} do not fit {whole}")
    for roles, logp in zip(table.column("roles").to_pylist(), table.column("logp").to_pylist()):
        if roles and logp and roles.count(ACTION) != len(logp):
            raise pa.ArrowInvalid("logp do not fit roles")
    return table
