"""The user's own JSONL and Parquet files: what is read, how it is split, and what is refused where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from anypo import tasks
from anypo.errors import UserError


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8"
    )
    return str(path)


def sums(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{index} + 1 =", "answer": index + 1} for index in range(count)]


def test_jsonl_and_parquet_give_the_same_task(tmp_path: Path) -> None:
    rows = sums(200)
    parquet = tmp_path / "sums.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    one = tasks.load(jsonl(tmp_path / "my:sums.jsonl", rows), {"verifier": "numeric"})
    two = tasks.load(str(parquet), {"verifier": "numeric"})
    assert one.name == "my:sums" and two.name == "sums"
    assert len(one) + one.n_heldout == 200 and 8 <= one.n_heldout <= 35
    for task in (one, two):
        assert [task.train(index) for index in range(len(task))] == [one.train(index) for index in range(len(one))]
        assert [task.heldout(i) for i in range(task.n_heldout)] == [one.heldout(i) for i in range(one.n_heldout)]
    problem = one.train(0)
    number = int(problem.answer) - 1
    assert problem.messages == ({"role": "user", "content": f"{number} + 1 ="},)
    assert [r.rewards["correct"] for r in one.score([problem] * 2, [f"= {problem.answer}", "none"])] == [1.0, 0.0]
    assert one.describe()["source"]["sha256"] != two.describe()["source"]["sha256"]
    assert len(one.describe()["source"]["sha256"]) == 64


def test_the_split_is_stable_and_adding_rows_moves_none(tmp_path: Path) -> None:
    few = tasks.load(jsonl(tmp_path / "a.jsonl", sums(100)), {"heldout": 0.3})
    many = tasks.load(jsonl(tmp_path / "b.jsonl", sums(1000)[::-1]), {"heldout": 0.3})
    held = [{task.heldout(index).prompt for index in range(task.n_heldout)} for task in (few, many)]
    train = [{task.train(index).prompt for index in range(len(task))} for task in (few, many)]
    assert held[0] <= held[1] and train[0] <= train[1] and not held[1] & train[1]
    assert 240 <= len(held[1]) <= 360  # 1000 rows at 0.3: four standard deviations


def test_tiny_files_have_both_sides(tmp_path: Path) -> None:
    for count in (2, 3, 5):
        for fraction in (0.01, 0.99):
            task = tasks.load(jsonl(tmp_path / "a.jsonl", sums(count)), {"heldout": fraction})
            assert len(task) >= 1 and task.n_heldout >= 1 and len(task) + task.n_heldout == count
    with pytest.raises(UserError, match="only one different prompt"):
        tasks.load(jsonl(tmp_path / "a.jsonl", sums(1) * 3))


def test_repeated_rows_are_dropped_and_one_prompt_stays_on_one_side(tmp_path: Path) -> None:
    rows = sums(50) + sums(10) + [{"prompt": "0 + 1 =", "answer": "one"}]
    task = tasks.load(jsonl(tmp_path / "a.jsonl", rows), {"heldout": 0.5})
    assert task.describe()["source"]["dropped"] == {"repeated": 10, "in_heldout": 0}
    assert len(task) + task.n_heldout == 51
    train = {task.train(index).prompt for index in range(len(task))}
    assert not train & {task.heldout(index).prompt for index in range(task.n_heldout)}


def test_a_separate_heldout_file_wins_over_the_training_file(tmp_path: Path) -> None:
    train, held = jsonl(tmp_path / "train.jsonl", sums(20)), jsonl(tmp_path / "test.jsonl", sums(5))
    task = tasks.load(train, {"heldout": held})
    assert (len(task), task.n_heldout) == (15, 5)
    description = task.describe()["source"]
    assert description["dropped"]["in_heldout"] == 5 and description["heldout_sha256"]
    with pytest.raises(UserError, match="every prompt of"):
        tasks.load(held, {"heldout": train})


def test_columns_messages_system_template_and_solutions(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    rows = [
        {"q": "one", "a": [1, 2], "why": "because", "level": 3},
        {"q": chat, "a": True, "why": "so", "level": 4},
        {"q": [{"role": "user", "content": "hello"}], "a": 2.5, "why": "so", "level": 5},
    ]
    options = {"prompt": "q", "answer": "a", "solution": "why", "system": "Be brief.", "template": "{level}: {q}"}
    task = tasks.load(jsonl(tmp_path / "a.jsonl", rows), options)
    every = [task.train(i) for i in range(len(task))] + [task.heldout(i) for i in range(task.n_heldout)]
    by_answer = {problem.answer: problem for problem in every}
    assert set(by_answer) == {"[1, 2]", "true", "2.5"}
    system = {"role": "system", "content": "Be brief."}
    assert by_answer["[1, 2]"].messages == (system, {"role": "user", "content": "3: one"})
    assert by_answer["[1, 2]"].solution == "because" and by_answer["[1, 2]"].metadata == {"level": 3}
    assert by_answer["true"].messages == tuple(chat)
    assert by_answer["2.5"].messages == (system, {"role": "user", "content": "hello"})


def test_a_python_verifier_sees_the_other_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(os.path.dirname(__file__)))
    rows = [{"prompt": f"p{index}", "expected": f"e{index}"} for index in range(4)]
    options = {"answer": "", "verifier": {"part": "python", "function": "user_verifiers:from_column"}}
    task = tasks.load(jsonl(tmp_path / "a.jsonl", rows), options)
    problem = task.train(0)
    text = problem.metadata["expected"]
    assert [reply.rewards["correct"] for reply in task.score([problem] * 2, [text, "x"])] == [1.0, 0.0]
    assert "source_sha256" in task.describe()["rewards"][0]["verifier"]
    task.close()


GOOD = {"prompt": "p", "answer": "1"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([GOOD, '{"prompt": "x", '], {}, r"line 2 is not JSON: .* at column"),
        ([GOOD, "", "", "[1, 2]"], {}, r"line 4 is a JSON list, not an object"),
        ([GOOD, {"promt": "x", "answer": "1"}], {}, r"line 2: there is no column 'prompt'\. Did you mean 'promt'"),
        ([GOOD, {"prompt": "x"}], {}, r"line 2: there is no column 'answer'"),
        ([GOOD, {"prompt": "x", "answer": None}], {}, r"line 2: column 'answer' is empty"),
        ([GOOD, {"prompt": "  ", "answer": "1"}], {}, r"line 2: the prompt is empty"),
        ([GOOD, {"prompt": 3, "answer": "1"}], {}, r"line 2: column 'prompt' must be a text or a list of messages"),
        (
            [GOOD, {"prompt": [{"role": "user"}], "answer": "1"}],
            {},
            r"line 2: message 1 .*'content' is null or missing",
        ),
        (
            [GOOD, {"prompt": "x", "answer": "many"}],
            {"verifier": "numeric"},
            r"line 2: .*'many' is not a number.*'numeric'",
        ),
        ([GOOD, {"prompt": "x", "answer": ""}], {}, r"line 2: the answer is empty.*'exact'"),
        ([GOOD, "[" * 100_000], {}, r"line 2 is (not|no) "),
        ([GOOD], {"template": "{prompts}"}, r"placeholder \{prompts\}\. Did you mean 'prompt'"),
        ([], {}, r"has no problems: it is empty"),
        ([GOOD], {"heldout": 1.5}, r"fraction from 0"),
        ([GOOD], {"heldout": "missing.jsonl"}, r"there is no task file 'missing.jsonl'"),
        ([GOOD], {"promt": "x"}, r"unknown field of task .*'promt'\. Did you mean 'prompt'"),
        ([GOOD], {"verifier": "numrc"}, r"unknown verifier part 'numrc'\. Did you mean 'numeric'"),
        ([GOOD], {"rewards": "lenght"}, r"unknown reward part 'lenght'\. Did you mean 'length'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tasks.load(jsonl(tmp_path / "data.jsonl", rows), options)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    parquet = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(sums(100)), parquet)
    whole = parquet.read_bytes()
    for damaged in (b"", b"no parquet", whole[: len(whole) // 2], whole[:20] + bytes(40) + whole[60:]):
        parquet.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged or no Parquet"):
            tasks.load(str(parquet))
    binary = tmp_path / "a.jsonl"
    binary.write_bytes(b'{"prompt": "a", "answer": "1"}\n\xff\xfe\xff')
    with pytest.raises(UserError, match="not UTF-8"):
        tasks.load(str(binary))
    with pytest.raises(UserError, match="no task file"):
        tasks.load(str(tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match=r"needs the ending \.jsonl, \.parquet or \.csv"):
        tasks.load("./data.txt")
