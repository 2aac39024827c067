"""The pages of docs/reference say what the code says."""

from __future__ import annotations

import ast

import pytest
import reference
from pydantic import BaseModel, Field

from anypo.objective.base import Trust
from anypo.parts import SLOTS


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return reference.pages()


def test_the_pages_are_current(made) -> None:
    stored = {file.name: file.read_text(encoding="utf-8") for file in reference.PAGES.glob("*.md")}
    stale = sorted(name for name in made.keys() | stored.keys() if made.get(name) != stored.get(name))
    assert not stale, f"run python scripts/reference.py: {', '.join(stale)}"


def test_every_part_and_field_of_the_library_has_a_place(made) -> None:
    for slot, base in SLOTS.items():
        page = made[f"{base.__module__.split('.')[1]}.md"]
        for name, part in base.parts.items():
            if not reference.is_offered(part):
                continue
            section = page.partition(f"### {slot}: {name}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
            assert section, f"{slot} part {name}"
            own = [field for field in part.model_fields if field not in base.model_fields]
            assert [field for field in own if f"| `{field}` |" not in section] == []


def test_how_a_field_is_written() -> None:
    class Example(BaseModel):
        trust: Trust = Field("clip")  # type: ignore[assignment]
        high: float | None = Field(1e-6, ge=0, lt=1, description="a | b")
        names: tuple[str, ...]

    lines = reference.fields_table(Example, {}).splitlines()
    assert lines[2:] == [
        "| `trust` | [trust](objective.md#trust) | `clip` |  |  |",
        r"| `high` | float or nothing | `1e-06` | ≥ 0, < 1 | a \| b |",
        "| `names` | list of text | must be given |  |  |",
    ]


def test_metrics_are_found_however_they_are_named() -> None:
    code = 'context.log("a/b", 1)\nmetrics.put(f"a/{path}", 2)\ncontext.log("c" if x else "d", 3)\nlogger.log("no", 4)'
    assert sorted(reference.logged(ast.parse(code))) == ["a/b", "a/{path}", "c", "d"]
