"""The list of lessons and its operations."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypo.replay.libraries.lessons import ADD, DELETE, MERGE, UPDATE, Lessons, Operation, operations, revised

OLD = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        ([], ["a", "b", "c"]),
        ([Operation(ADD, "d")], ["a", "b", "c", "d"]),
        ([Operation(ADD, "b")], ["a", "b", "c"]),
        ([Operation(ADD, "")], ["a", "b", "c"]),
        ([Operation(UPDATE, "B", (1,))], ["a", "B", "c"]),
        ([Operation(UPDATE, "", (1,))], ["a", "b", "c"]),
        ([Operation(UPDATE, "x", (9,))], ["a", "b", "c", "x"]),
        ([Operation(UPDATE, "c", (0,))], ["c", "b"]),
        ([Operation(DELETE, "", (1,))], ["a", "c"]),
        ([Operation(DELETE, "whatever it says", (0, 2))], ["b"]),
        ([Operation(DELETE, "", (9,))], ["a", "b", "c"]),
        ([Operation(MERGE, "bc", (1, 2))], ["a", "bc"]),
        ([Operation(MERGE, "x", (7, 8))], ["a", "b", "c", "x"]),
        ([Operation(MERGE, "cx", (7, 2))], ["a", "b", "cx"]),
        # ids are those before the plan, whatever was deleted or added meanwhile
        ([Operation(DELETE, "", (0,)), Operation(UPDATE, "C", (2,))], ["b", "C"]),
        ([Operation(ADD, "d"), Operation(DELETE, "", (3,))], ["a", "b", "c", "d"]),
        ([Operation(DELETE, "", (1,)), Operation(UPDATE, "B", (1,))], ["a", "c", "B"]),
        ([Operation(MERGE, "bc", (1, 2)), Operation(DELETE, "", (2,))], ["a", "bc"]),
    ],
)
def test_plans(plan: list[Operation], wanted: list[str]) -> None:
    assert revised(OLD, plan, 10) == wanted


def test_the_oldest_go_when_there_are_too_many() -> None:
    assert revised(OLD, [Operation(ADD, "d"), Operation(ADD, "e")], 3) == ["c", "d", "e"]
    assert revised([], [Operation(ADD, "d")], 1) == ["d"]


TEXTS = st.sampled_from(["", "a", "b", "c", "d"])
PLANS = st.lists(
    st.builds(
        Operation,
        st.sampled_from([ADD, UPDATE, DELETE, MERGE]),
        TEXTS,
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=6,
)


@given(st.lists(st.sampled_from("abcd"), unique=True, max_size=4), PLANS, st.integers(1, 5))
def test_whatever_the_plan_entries_are_distinct_full_and_few(
    texts: list[str], plan: list[Operation], most: int
) -> None:
    found = revised(texts, plan, most)
    assert len(found) <= most and len(set(found)) == len(found) and all(found)
    assert set(found) <= {*texts, *(operation.content for operation in plan)}
    assert revised(found, [], most) == found


def test_operations_are_read_from_what_a_model_writes() -> None:
    reply = """Here is my plan:
```json
[{"operation": "add", "id": null, "content": "check:  twice"},
 {"operation": "MODIFY", "id": "[1]", "content": "new"},
 {"operation": "DELETE", "id": 2},
 {"operation": "MERGE", "id": [0, "3"], "content": "both"},
 {"operation": "NONE", "id": null, "content": "known"},
 {"operation": "ADD", "content": ""}, {"content": "no name: is an ADD"}, {"operation": "SHOUT", "content": "x"}, 7]
```"""
    assert operations(reply) == [
        Operation(ADD, "check: twice"),
        Operation(UPDATE, "new", (1,)),
        Operation(DELETE, "", (2,)),
        Operation(MERGE, "both", (0, 3)),
        Operation(ADD, "no name: is an ADD"),
    ]
    assert operations("[]") == []


@pytest.mark.parametrize("reply", ["", "no list", "[1, 2", '{"operation": "ADD"}', "] [", "[ADD it]"])
def test_what_is_no_list_is_told_apart_from_an_empty_one(reply: str) -> None:
    assert operations(reply) is None


@given(PLANS)
def test_an_operation_survives_being_written_and_read(plan: list[Operation]) -> None:
    kept = [o for o in plan if o.content or o.kind == DELETE]
    assert operations(json.dumps([operation.plain() for operation in plan])) == kept


def test_lessons_render_numbered_and_survive_a_checkpoint() -> None:
    lessons = Lessons(["first", "second"])
    assert lessons.text() == "[0] first\n[1] second" and Lessons().text() == ""
    lessons.apply([Operation(DELETE, "", (0,))], 5)
    again = Lessons()
    again.load_state_dict(lessons.state_dict())
    assert again.texts == ["second"] and len(again) == 1 and again.text() == "[0] second"
