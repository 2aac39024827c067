"""The table of answers: what people and models write, and whether it is right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from anypo.tasks.base import Problem
from anypo.tasks.text.answers.numbers import last_number, number, readings
from anypo.tasks.text.extract import EXTRACTORS, extract
from anypo.tasks.text.verifiers import Numeric, Verifier

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text(encoding="utf-8").splitlines()
]


def part(row: dict[str, Any]) -> str:
    return row["verifier"] if isinstance(row["verifier"], str) else row["verifier"]["part"]


@pytest.mark.parametrize("name", ["numeric", "multiple_choice", "exact"])
def test_every_answer_of_the_table_gets_its_score(name: str) -> None:
    rows = [row for row in ROWS if part(row) == name]
    wrong = [
        (row["answer"], row["text"], row["score"])
        for row in rows
        if Verifier.parse(row["verifier"]).verify(Problem(0, (), answer=row["answer"]), row["text"]) != row["score"]
    ]
    assert not wrong
    right = sum(row["score"] for row in rows)
    assert min(right, len(rows) - right) >= len(rows) / 4, "false positives count as heavily as misses"


def test_the_table_is_large_and_contradicts_itself_nowhere() -> None:
    assert len(ROWS) >= 300
    keys = [(json.dumps(row["verifier"]), row["answer"], row["text"]) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_what_is_extracted_is_a_number_and_is_extracted_from_itself() -> None:
    for row in ROWS:
        for found in readings(row["text"]) if part(row) == "numeric" else ():
            assert number(found) is not None and last_number(found) == found, row


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (r"\frac{3}{4}", "0.75"),
        ("1 000 000", "1e6"),
        ("1.234.567,5", "1234567.5"),
        ("12,34,567", "1234567"),
        ("-.5", "-1/2"),
        (r"\$1{,}234", "1234"),
        (r"2\%", "0.02"),
        ("2½", "5/2"),
        ("１２", "12"),
        ("3 × 10⁻²", "0.03"),
    ],
)
def test_gold_answers_may_be_written_in_the_same_ways(text: str, same: str) -> None:
    assert number(text) == number(same) is not None


@pytest.mark.parametrize(
    "text", ["5 km", "x = 5", "5-7", "2^8", "(3,14)", "1,2,3", "1.2.3", "x12", "", "nan", "1/0", "1e401"]
)
def test_what_is_more_or_less_than_a_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize("extractor", ["tags", "boxed", "last_line"])
def test_a_number_may_have_a_unit_wherever_it_is_looked_for(extractor: str) -> None:
    texts = {"tags": "<answer>18 km</answer>", "boxed": r"\boxed{x = 18\text{ km}}", "last_line": "so\n18 km"}
    verifier = Numeric(extract=extractor)
    assert verifier.verify(Problem(0, (), answer="18"), texts[extractor]) == 1.0
    assert Numeric(extract="whole").verify(Problem(0, (), answer="18"), "18 km") == 0.0


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "\n",
        "(",
        "1 ",
        "111 ",
        "- ",
        "5 – ",
        "A ",
        "(ab ",
        "\\text{",
        "\\frac{1",
        "answer is ",
        "½",
        "⁸",
        "*",
        "B is ",
    ],
)
def test_reading_takes_time_linear_in_the_text(piece: str) -> None:
    """A quadratic pattern would need minutes for the second text."""
    for size in (1_000, 200_000):
        text = (piece * size)[:size] + "x"
        begun = time.perf_counter()
        for name in EXTRACTORS:
            extract(name, text)
        assert time.perf_counter() - begun < 10
