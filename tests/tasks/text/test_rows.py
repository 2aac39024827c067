"""Rows of the user's own data: every kind of source, and values that no task may be trained on."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from anypo import tasks
from anypo.cli import main
from anypo.errors import UserError
from anypo.tasks.text.rows import Data


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def answers(task: Any) -> set[str]:
    every = [task.train(i) for i in range(len(task))] + [task.heldout(i) for i in range(task.n_heldout)]
    return {problem.answer for problem in every}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


SUMS = [{"prompt": f"{index} + 1 =", "answer": index + 1} for index in range(30)]


def test_csv_gives_the_same_problems(tmp_path: Path) -> None:
    lines = ["prompt,answer,note", *(f'"{r["prompt"]}",{r["answer"]},"a, ""b""\nc"' for r in SUMS)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    task = tasks.load(str(path), {"verifier": "numeric"})
    assert answers(task) == {str(r["answer"]) for r in SUMS}
    assert task.train(0).metadata == {"note": 'a, "b"\nc'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,answer\na,1\nb\n", r"line 3 has 1 cells for the 2 columns"),
        ("prompt,answer\na,1,2\n", r"line 2 has 3 cells for the 2 columns"),
        ('prompt,answer\n"a\nb",1\nc,\n', r"line 4: column 'answer' is empty"),
        ("prompt,prompt\na,1\n", r"two columns 'prompt'"),
        ('prompt,answer\n"a,1\n', r"is no CSV after line"),
        ("promt,answer\na,1\n", r"line 2: there is no column 'prompt'\. Did you mean 'promt'"),
        ("", r"it is empty"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        tasks.load(str(path))


def test_dots_reach_inside_columns(tmp_path: Path) -> None:
    rows = [{"q": {"text": f"q{i}"}, "meta": {"answers": [{"value": i}], "dotted.name": 1}} for i in range(4)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert answers(tasks.load(path, {"prompt": "q.text", "answer": "meta.answers.0.value"})) == {"0", "1", "2", "3"}
    for wrong in ("meta.answer", "meta.answers.1.value", "meta.answers.value"):
        with pytest.raises(UserError, match=rf"line 1: there is no column '{wrong}'"):
            tasks.load(path, {"prompt": "q.text", "answer": wrong})
    with pytest.raises(UserError, match=r"Did you mean 'meta\.answers'"):
        tasks.load(path, {"prompt": "q.text", "answer": "meta.answer"})


def test_a_column_whose_own_name_has_a_dot_comes_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "a.b": "own", "a": {"b": "inner"}} for i in range(3)])
    assert answers(tasks.load(path, {"answer": "a.b"})) == {"own"}


GSM8K = [
    {"question": f"{i} and {i}?", "answer": f"It is {i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}.\n#### {2000 * i:,}"}
    for i in range(1, 9)
]


def test_the_shape_of_gsm8k(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "g.jsonl", GSM8K)
    task = tasks.load(path, {"shape": "gsm8k"})
    assert answers(task) == {f"{2000 * i:,}" for i in range(1, 9)}
    problem = task.train(0)
    assert "<<" not in problem.solution and problem.solution.endswith(f"#### {problem.answer}")
    texts = [problem.solution, f"#### {problem.answer.replace(',', '')}", "#### 3"]
    assert [reply.rewards["correct"] for reply in task.score([problem] * 3, texts)] == [1.0, 1.0, 0.0]
    for verifier in ("exact", "numeric"):
        with pytest.raises(UserError, match=r"shape=gsm8k|not a number"):
            tasks.load(path, {"prompt": "question", "verifier": verifier})
    with pytest.raises(UserError, match=r"line 1: column 'answer' does not end with '####"):
        tasks.load(jsonl(tmp_path / "h.jsonl", [{"question": "a", "answer": "1"}]), {"shape": "gsm8k"})


def test_the_shape_of_verl(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "reward_model": {"style": "rule", "ground_truth": str(i)}}
        for i in range(5)
    ]
    path = tmp_path / "v.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = tasks.load(str(path), {"shape": "verl", "verifier": "numeric"})
    assert answers(task) == set("01234") and task.train(0).messages[0]["content"].startswith("q")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (19.0, "19"),
        (-3.0, "-3"),
        (2.5, "2.5"),
        (True, "true"),
        (10**30, str(10**30)),
        (1e300, "1e+300"),
        ([1, 2.0], "[1, 2.0]"),
    ],
)
def test_answers_as_texts(tmp_path: Path, value: Any, text: str) -> None:
    rows = [{"prompt": f"q{i}", "answer": value} for i in range(3)]
    task = tasks.load(jsonl(tmp_path / "a.jsonl", rows))
    assert answers(task) == {text}


def test_truth_values_are_right_in_any_case(tmp_path: Path) -> None:
    task = tasks.load(jsonl(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "answer": True} for i in range(3)]))
    scores = [reply.rewards["correct"] for reply in task.score([task.train(0)] * 3, ["True", "true", "False"])]
    assert scores == [1.0, 1.0, 0.0]


HALF = r'{"prompt": "smile \ud83d", "answer": "1"}'


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (HALF, {}, r"line 2: column 'prompt' holds half a character"),
        (
            r'{"prompt": [{"role": "user", "content": "\ud83d"}], "answer": "1"}',
            {},
            "column 'prompt' holds half a character",
        ),
        (
            r'{"prompt": [{"role": "user", "content": "a"}], "answer": "1", "tools": [{"name": "\ud83d"}]}',
            {},
            r"line 2: column 'tools' holds half a character",
        ),
        (r'{"prompt": "a", "answer": "\udc00"}', {}, r"line 2: column 'answer' holds half a character"),
        (r'{"prompt": "a", "answer": "1", "s": "\ud83d"}', {"solution": "s"}, r"line 2: column 's' holds half"),
        (
            r'{"prompt": "a", "answer": "1", "s": "\ud83d"}',
            {"template": "{prompt} {s}"},
            r"line 2: column 's' holds half",
        ),
        (
            '{"prompt": "a", "answer": ' + "7" * 5000 + "}",
            {},
            r"line 2: column 'answer' holds a number of 5,000 digits",
        ),
        ('{"prompt": "a", "answer": NaN}', {}, r"line 2: column 'answer' holds nan, which is no number"),
        ('{"prompt": "a", "answer": -Infinity}', {}, r"line 2: column 'answer' holds -inf"),
        ('{"prompt": "a", "answer": 1e999}', {}, r"line 2: column 'answer' holds inf"),
        (r'{"prom\ud83dt": "a", "answer": "1"}', {}, r"line 2: there is no column 'prompt'.*prom\\ud83dt"),
        ('{"prompt": "a", "answer": [1, NaN]}', {}, r"line 2: column 'answer' holds nan"),
    ],
)
def test_values_that_no_task_can_hold_are_refused(
    tmp_path: Path, row: str, options: dict[str, Any], message: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "answer": "1", "s": "x"}, row])
    with pytest.raises(UserError, match=message) as caught:
        tasks.load(path, options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    str(caught.value).encode()


def test_what_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    row = r'{"prompt": "a", "answer": "1", "x": "\ud83d", "y": NaN, "z": ' + "7" * 5000 + "}"
    assert len(tasks.load(jsonl(tmp_path / "a.jsonl", [row, {"prompt": "b", "answer": "1"}]))) == 1


def test_the_command_line_says_it_and_exits_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "s.jsonl", [HALF, {"prompt": "b", "answer": "2"}])
    words = ["anypo", "train", "-m", "tiny", "-t", path, "--steps", "1", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "line 1: column 'prompt'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_parquet_with_nan_whole_floats_and_dates_beyond_the_calendar(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": [19.0, 20.0]}), path)
    assert answers(tasks.load(str(path))) == {"19", "20"}
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": [19.0, float("nan")]}), path)
    with pytest.raises(UserError, match=r"row 2: column 'answer' holds nan"):
        tasks.load(str(path))
    late = pyarrow.array([0, 2**60], pyarrow.timestamp("ms"))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": ["1", "2"], "when": late}), path)
    with pytest.raises(UserError, match=r"row 2: column 'when' cannot be read"):
        tasks.load(str(path))
    day = [datetime.date(2024, 1, 1)] * 2
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": day}), path)
    with pytest.raises(UserError, match="row 1: column 'answer' holds a date"):
        tasks.load(str(path))


def test_folders_that_the_datasets_library_saved(tmp_path: Path, offline: Any) -> None:
    whole = offline.Dataset.from_list(SUMS)
    whole.save_to_disk(tmp_path / "one")
    offline.DatasetDict({"train": whole, "test": whole.select(range(5))}).save_to_disk(tmp_path / "two")
    one, two = tasks.load(str(tmp_path / "one")), tasks.load(str(tmp_path / "two"), {"heldout": "test"})
    assert one.name == "one" and answers(one) == {str(r["answer"]) for r in SUMS}
    assert (len(two), two.n_heldout) == (25, 5)
    source = two.describe()["source"]
    assert source["split"] == "train" and source["heldout_split"] == "test" and source["fingerprint"]
    with pytest.raises(UserError, match=r"has no split 'tset'\. Did you mean 'test'"):
        tasks.load(str(tmp_path / "two"), {"heldout": "tset"})
    pairs = offline.Dataset.from_list([{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(4)])
    pairs.save_to_disk(tmp_path / "pairs")
    assert tasks.load(str(tmp_path / "pairs")).scorer == "pairs"


def test_a_hub_data_set_that_is_not_there_is_said_in_a_sentence(offline: Any) -> None:
    assert tasks.parse("nobody/nothing-at-all", {"split": "test"})["name"] == "nobody/nothing-at-all"
    with pytest.raises(UserError, match=r"not in the cache or not reachable; HF_HUB_OFFLINE=0 lets it be fetched"):
        tasks.load("nobody/nothing-at-all")


def test_hub_data_sets_of_a_known_shape(offline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return offline.Dataset.from_list(GSM8K)

    monkeypatch.setattr(offline, "load_dataset", load_dataset)
    task = tasks.load("openai/gsm8k")
    assert set(asked) == {("openai/gsm8k", "main", "train")} and "2,000" in answers(task)


def test_without_the_package_data_sets_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'anypo[data]'" in (Data("owner/name").refuse() or "")
    assert Data(jsonl(tmp_path / "a.jsonl", [])).refuse() is None


def test_a_folder_that_holds_everything_is_not_searched_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anypo.tasks.text.rows.MOST", 3)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("x")
    assert Data(str(tmp_path)).refuse() is None
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.txt").write_text("x")
    with pytest.raises(UserError, match="holds more than 3 files, too many to look for data in; name that of the data"):
        tasks.load(str(tmp_path))
