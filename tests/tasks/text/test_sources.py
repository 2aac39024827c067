"""Several files, packed ones, lists; nothing or everything held out; functions that cannot be called."""

from __future__ import annotations

import gzip
import json

import pytest

from anypo import tasks
from anypo.errors import UserError

ROWS = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(30)]
LINES = [json.dumps(row) for row in ROWS]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n".join(LINES[:20]))
    (tmp_path / "b.jsonl").write_text("\n".join(LINES[20:]))
    (tmp_path / "one.json").write_text(json.dumps(ROWS))
    (tmp_path / "UPPER.JSONL").write_text("\n".join(LINES))
    (tmp_path / "lines.ndjson").write_text("\n".join(LINES))
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write("\n".join(LINES))


@pytest.mark.parametrize(
    "name", ["a.jsonl,b.jsonl", "a.jsonl, b.jsonl", "*.ndjson", "one.json", "UPPER.JSONL", "packed.jsonl.gz"]
)
def test_every_spelling_gives_the_same_problems(name):
    task = tasks.load(name)
    assert len(task) + task.n_heldout == 30


def test_several_files_have_a_hash_each_and_their_own_places(tmp_path):
    task = tasks.load("a.jsonl,b.jsonl")
    assert set(task.describe()["source"]["files"]) == {"a.jsonl", "b.jsonl"}
    assert {task.train(index).place.split()[0] for index in range(len(task))} == {"'a.jsonl'", "'b.jsonl'"}
    with pytest.raises(UserError, match=r"no task file 'c\.jsonl'"):
        tasks.load("a.jsonl,c.jsonl")
    with pytest.raises(UserError, match="no task file"):
        tasks.load("none-*.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1]", "row 1 is a JSON int"), ("[{", "is not JSON"), ("{}", "there is no column"), ("", "is empty")],
)
def test_what_is_wrong_with_a_list_is_a_sentence(tmp_path, text, said):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=said):
        tasks.load("bad.json")


def test_a_damaged_archive_is_a_sentence(tmp_path):
    (tmp_path / "bad.jsonl.gz").write_bytes((tmp_path / "packed.jsonl.gz").read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be read"):
        tasks.load("bad.jsonl.gz")


def test_nothing_or_everything_is_held_out(tmp_path):
    assert (len(tasks.load("one.json", {"heldout": 0})), tasks.load("one.json", {"heldout": 0}).n_heldout) == (30, 0)
    same = tasks.load("one.json", {"heldout": "one.json"})
    assert len(same) == same.n_heldout == 30
    (tmp_path / "single.jsonl").write_text(LINES[0])
    with pytest.raises(UserError, match="heldout=0"):
        tasks.load("single.jsonl")
    assert len(tasks.load("single.jsonl", {"heldout": 0})) == 1
    assert tasks.load("single.jsonl", {"heldout": "single.jsonl"}).n_heldout == 1


def test_a_role_that_nobody_has_is_refused(tmp_path):
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"prompt": [{"role": "usr", "content": "hi"}], "answer": "1"}) + "\n"
    )
    with pytest.raises(UserError, match=r"unknown role 'usr'. Did you mean 'user'"):
        tasks.load("chat.jsonl", {"heldout": 0})


@pytest.mark.parametrize("part", ["verifier", "rewards"])
def test_a_function_of_one_answer_takes_what_it_names(tmp_path, part):
    (tmp_path / "mychecks_of_some.py").write_text(
        "def one(text): return text == '4'\n\ndef two(text, answer): return text == answer\n\n"
        "def none(*, text): return 1.0\n\ndef four(a, b, c, d): return 1.0\n\ndef batch(completions, **more): return [1.0]\n"
    )

    def loaded(name):
        given = {"part": "python", "function": f"mychecks_of_some:{name}"}
        return tasks.load("a.jsonl", {part: given if part == "verifier" else [given]})

    for name in ("one", "two"):
        task = loaded(name)
        problem = task.train(0)
        right, wrong = task.score([problem] * 2, [problem.answer if name == "two" else "4", "no"])
        assert not right.failed and sum(right.rewards.values()) > sum(wrong.rewards.values()) == 0.0, right
    for name, line, says in (("none", 5, "one answer is judged by"), ("four", 7, "takes"), ("batch", 9, "one by one")):
        with pytest.raises(UserError, match=rf"mychecks_of_some.py, line {line}\) takes .*{says}|line {line}\) {says}"):
            loaded(name)
