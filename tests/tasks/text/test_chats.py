"""Conversations in the user's own files: what of a message is kept, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from anypo import tasks
from anypo.errors import UserError

USER = {"role": "user", "content": "weather?"}
CALL = {"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"city": "Bern"}'}}
READ = {"id": "1", "type": "function", "function": {"name": "get", "arguments": {"city": "Bern"}}}
PARTS = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
TOOLS = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]


def loaded(path: Path, *prompts: Any, **columns: Any) -> list[Any]:
    """The problems of a file, by the number in their answers."""
    rows = [{"prompt": prompt, "answer": str(n), **columns} for n, prompt in enumerate([*prompts, "other"])]
    file = path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.load(str(file), {"solution": "why"} if "why" in columns else {})
    every = [task.train(i) for i in range(len(task))] + [task.heldout(i) for i in range(task.n_heldout)]
    return sorted(every, key=lambda problem: problem.answer)


def test_what_a_message_holds_is_kept(tmp_path: Path) -> None:
    said = [
        {**USER, "name": "Ann"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "name": "get", "tool_call_id": "1", "content": PARTS},
    ]
    found, *_ = loaded(tmp_path, said, tools=TOOLS)
    assert found.messages == (
        {**USER, "name": "Ann", "tools": TOOLS},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [READ]},
        {"role": "tool", "name": "get", "tool_call_id": "1", "content": "12"},
    )
    as_text, *_ = loaded(tmp_path, [USER], "plain", tools=json.dumps(TOOLS))
    assert as_text.messages == ({**USER, "tools": TOOLS},)


def test_tools_and_calls_make_another_prompt(tmp_path: Path) -> None:
    first, second, *_ = loaded(tmp_path, [USER], [{**USER, "name": "Ann"}])
    assert first.prompt != second.prompt


def test_nulls_of_a_columnar_file_are_no_fields(tmp_path: Path) -> None:
    said = [USER, {"role": "assistant", "content": "", "tool_calls": [READ]}, {"role": "tool", "content": "12"}]
    rows = [{"prompt": said, "answer": "0", "tools": TOOLS}, {"prompt": [USER], "answer": "1", "tools": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    task = tasks.load(str(tmp_path / "a.parquet"), {})
    by_answer = {p.answer: p for p in (task.train(0), task.heldout(0))}
    assert by_answer["0"].messages == ({**USER, "tools": TOOLS}, *said[1:]) and by_answer["1"].messages == (USER,)


def test_a_begun_answer_is_kept_and_a_solution_may_be_a_message(tmp_path: Path) -> None:
    begun = [USER, {"role": "assistant", "content": "It is "}]
    found, *_ = loaded(tmp_path, begun, why=[{"role": "assistant", "content": "warm"}])
    assert found.messages == tuple(begun) and found.solution == "warm"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": None}, r"message 2 of 'prompt': the field 'content' is null or missing"),
        ({"content": 3}, r"the field 'content' holds a int"),
        ({"content": [{"type": "image_url", "image_url": {}}]}, r"'content' has a part of type 'image_url'"),
        ({"content": "x", "weight": 0}, r"message 2 of 'prompt' has a field 'weight'"),
        ({"content": "x", "name": 3}, r"the field 'name' holds a int"),
        ({"content": "x", "tool_calls": "get()"}, r"the field 'tool_calls' must be a list"),
        ({"content": "x", "tool_calls": [{"id": "1"}]}, r"'tool_calls' has a call without a function's name"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path, message: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        loaded(tmp_path, [USER, {"role": "assistant", **message}, USER])


def test_tools_and_answers_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the field 'tools' must be a list of tool schemas"):
        loaded(tmp_path, [USER], tools="get")
    with pytest.raises(UserError, match="the message of 'why' has a field 'tool_calls'"):
        loaded(tmp_path, [USER], why=[{"role": "assistant", "content": "x", "tool_calls": [CALL]}])
    with pytest.raises(UserError, match="the prompt is empty"):
        loaded(tmp_path, [{"role": "assistant", "content": "x"}])
