"""Requests met by function calls: what is right, whatever its spelling, and what is not."""

from __future__ import annotations

import pytest

from anypo import tasks
from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks.base import Problem
from anypo.worlds.functions import Functions, calls

ANSWER = '[light(room="hall", on=True), timer(minutes=4), timer(minutes=6)]'


def paid(text: str, opened: str | None = None) -> tuple[float, float]:
    rewards = Functions(Problem(prompt_id("q"), (), ANSWER, opened=opened)).step(text).rewards
    return rewards["correct"], rewards["format"]


@pytest.mark.parametrize(
    "said",
    [
        ANSWER,
        "[timer(minutes=6), light(on=True, room='hall'),timer( minutes = 4 )]",
        "\n[\n timer(minutes=4),\n timer(minutes=6),\n light(room='hall', on=True),\n]\n",
    ],
)
def test_order_quotes_and_white_space_make_no_difference(said: str) -> None:
    assert paid(f"<think>three</think>{said}") == (1.0, 1.0)
    assert paid(f"three</think>{said}", opened="<think>") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ('[light(room="hall", on=True), timer(minutes=4)]', 1.0),
        ('[light(room="hall", on=True), timer(minutes=4), timer(minutes=4)]', 1.0),
        ('[light(room="hall", on=1), timer(minutes=4), timer(minutes=6)]', 1.0),
        ('[light(room="hall", on="True"), timer(minutes=4), timer(minutes=6)]', 1.0),
        ('[light(room="hall", lit=True), timer(minutes=4), timer(minutes=6)]', 1.0),
        ('[light("hall", on=True), timer(minutes=4), timer(minutes=6)]', 0.0),
        ('[light(room="hall", on=True), timer(minutes=2 + 2), timer(minutes=6)]', 0.0),
        ("[]", 1.0),
        ("[light]", 0.0),
        ("[home.light(on=True)]", 0.0),
        ("[timer(minutes=4, minutes=4)]", 0.0),
        ("[timer(minutes=[4])]", 0.0),
        ("[timer(**{'minutes': 4})]", 0.0),
        ("timer(minutes=4)", 0.0),
        ("[" * 500 + "]" * 500, 0.0),
    ],
)
def test_any_other_value_name_or_number_is_wrong(said: str, read: float) -> None:
    assert paid(f"<think></think>{said}") == (0.0, read)


def test_the_form_is_part_of_the_one_criterion() -> None:
    for text in (ANSWER, f"<think>{ANSWER}", f"<think></think>{ANSWER} Done.", f"Well. <think></think>{ANSWER}", ""):
        assert paid(text) == (0.0, 0.0)
    assert paid(f"three</think>{ANSWER}") == (0.0, 0.0), "nobody opened it"
    assert calls("[timer(minutes=4)]" + " " * 3000) is None


def test_solutions_are_right_and_the_sides_share_no_request() -> None:
    task = tasks.load({"name": "function_calls", "calls": 3, "heldout": 64})
    seen: list[set[int]] = [set(), set()]
    for side, pose in enumerate((task.train, task.heldout)):
        for index in range(64):
            problem = pose(index)
            assert task.environment(problem).step(problem.solution).rewards == {"correct": 1.0, "format": 1.0}
            seen[side].add(problem.prompt)
    assert not seen[0] & seen[1] and len(seen[0]) > 40
    assert {len(calls(task.train(index).answer) or []) for index in range(64)} == {1, 2, 3}
    with pytest.raises(UserError, match="calls"):
        tasks.load({"name": "function_calls", "calls": 0})
