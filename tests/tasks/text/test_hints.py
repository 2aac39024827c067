"""Hints as data of a problem: of files, and the steps of sums and products."""

from __future__ import annotations

import json
import re

import pytest

from anypo import tasks
from anypo.errors import UserError
from anypo.tasks.base import hinted
from anypo.tasks.text.hints import levels, steps


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("3 + 5 - 3", ["3 + 5 = 8", "3 + 5 = 8\n8 - 3"]),
        ("1 + 2 * 3 - 4", ["2 * 3 = 6", "2 * 3 = 6\n1 + 6 = 7", "2 * 3 = 6\n1 + 6 = 7\n7 - 4"]),
        ("23 + 45", ["20 + 40 = 60", "20 + 40 = 60\n60 + 8"]),
        ("23 - 48", ["20 - 40 = -20", "20 - 40 = -20\n-20 - 5"]),
        ("12 * 34", ["12 * 30 = 360"]),
        ("8 - 0 - 0", []),
        ("8 + 2", []),
        ("20 + 30", []),
        ("7", []),
        ("(1 + 2) * 3", []),
        ("", []),
    ],
)
def test_the_steps_of_an_expression_lead_to_its_value_and_do_not_say_it(expression: str, found: list[str]) -> None:
    assert list(steps(expression)) == found


def test_every_step_of_a_generated_sum_is_true_and_none_states_the_answer() -> None:
    task = tasks.load(tasks.parse("chain_sum", {"style": "plain", "min_terms": 3, "max_terms": 5, "max_digits": 2}))
    told = [task.train(n) for n in range(60)]
    assert hinted(task) and sum(bool(p.hints) for p in told) > 50
    for problem in told:
        for hint in problem.hints:
            *done, last = hint.split("\n")
            for line in [*done, *([last] if "=" in last else [])]:
                left, right = line.split(" = ")
                assert eval(left) == int(right) != int(problem.answer)
        if problem.hints and "=" not in problem.hints[-1].split("\n")[-1]:
            assert eval(problem.hints[-1].split("\n")[-1]) == int(problem.answer)
    assert not hinted(tasks.load(tasks.parse("count_bits", {})))


def test_a_column_of_hints_is_a_text_a_list_or_a_list_of_kinds(tmp_path) -> None:
    rows = [
        {"prompt": "a?", "answer": "1", "hints": "one"},
        {"prompt": "b?", "answer": "2", "hints": ["little", "much"]},
        {"prompt": "c?", "answer": "3", "hints": [["k1", "k2"], ["s1"]]},
        {"prompt": "d?", "answer": "4", "hints": None},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = tasks.load(tasks.parse(str(file), {"hints": "hints", "heldout": 0}))
    found = {p.answer: p.hints for p in map(task.train, range(4))}
    assert found == {"1": ("one",), "2": ("little", "much"), "3": ("k1", "k1\nk2", "s1"), "4": ()}
    assert "hints" not in task.train(0).metadata


def test_hints_that_are_nested_too_deeply_are_refused() -> None:
    with pytest.raises(UserError, match=re.escape("row 3: column 'hints' is nested too deeply")):
        levels([["a", ["b"]]], "hints", "row 3")
