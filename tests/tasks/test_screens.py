"""Operating a screen in words: what an action is, what it is worth, and where problems come from."""

from __future__ import annotations

import pytest

from anypo import tasks
from anypo.systems import find
from anypo.worlds.screens import WEIGHTS, overlap, said

TASK = tasks.load({"name": "screens", "size": 300, "heldout": 60})


def pay(problem, text: str) -> float:
    rewards = TASK.environment(problem).step(text).rewards
    return sum(weight * rewards[name] for name, weight in TASK.weights.items())


def first(kind: str):
    return next(p for p in map(TASK.train, range(300)) if p.answer.split()[0] == kind)


@pytest.mark.exact("craft-gui")
@pytest.mark.parametrize("kind", ["click", "type", "scroll", "back", "finish", "answer"])
def test_the_solution_is_worth_one_and_another_type_the_form_alone(kind: str) -> None:
    problem = first(kind)
    assert pay(problem, problem.solution) == pytest.approx(1)
    other = "back" if kind != "back" else "finish"
    assert pay(problem, f"<action>{other}</action>") == pytest.approx(WEIGHTS["format"])
    for text in ("", problem.answer, f"<action>{problem.answer}", "<action>fly 1 2</action>", "<action></action>"):
        assert pay(problem, text) == 0


@pytest.mark.exact("craft-gui")
def test_a_click_counts_anywhere_in_the_box() -> None:
    problem = first("click")
    left, top, right, bottom = problem.metadata["box"]
    at = lambda x, y: pay(problem, f"I tap it. <action>click {x} {y}</action>")
    for x, y in ((left, top), (right, bottom), (left, bottom), ((left + right) // 2, top)):
        assert at(x, y) == pytest.approx(1)
    for x, y in ((left - 1, top), (right + 1, bottom), (left, top - 1), (right, bottom + 1)):
        assert at(x, y) == pytest.approx(0.1)


def test_arguments_are_read_as_people_write_them() -> None:
    assert said("<action> click 3, 4 </action>") == ("click", "3, 4") and said("<action>click 3</action>") is None
    assert said("<action>back</action> no <action>scroll up</action>") == ("scroll", "up")
    assert said("<action>scroll sideways</action>") is None and said("<action>back now</action>") is None
    assert said("<action>type</action>") is None and said("<action>type two words\n</action>") == ("type", "two words")
    assert overlap("Red  tea", "red") == pytest.approx(2 / 3) and overlap("tea", "red") == overlap("", "red") == 0


def test_sides_share_no_question_and_lengths_vary() -> None:
    train, held = ([side(i) for i in range(n)] for side, n in ((TASK.train, 300), (TASK.heldout, 60)))
    assert not {p.prompt for p in train} & {p.prompt for p in held}
    assert {p.metadata["operations"] for p in train} == set(map(float, range(1, 12)))
    assert find("craft-gui").algorithm().control.key == "operations"
    assert TASK.describe()["source"]["longest"] == 10
