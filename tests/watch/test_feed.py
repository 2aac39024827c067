"""Reading runs while they are written, moved, damaged and gone."""

import json
import math
import shutil

import pytest
from synthetic_run import make_run

from anypo.files import encode
from anypo.run.disk.folder import RunFolder
from anypo.watch.feed import MOST, Feed, newest, tail
from anypo.watch.runs import Runs, Unknown, find, identity


def lines(*steps, **more):
    return b"".join(encode({"step": s, "reward/mean": s / 10} | more).encode() + b"\n" for s in steps)


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


@pytest.fixture
def feed(tmp_path):
    return Feed(tmp_path / "metrics.jsonl")


def test_only_complete_lines_are_read_and_each_of_them_once(feed):
    feed.refresh()
    assert feed.after(0)["steps"] == []
    whole = lines(1, 2, 3)
    append(feed.path, whole[:-9])  # the third line is being written
    feed.refresh()
    assert feed.after(0)["steps"] == [1, 2]
    feed.refresh()
    assert feed.after(0)["steps"] == [1, 2]
    append(feed.path, whole[-9:])
    feed.refresh()
    found = feed.after(2, feed.generation)
    assert found["steps"] == [3] and found["values"]["reward/mean"] == [0.3] and not found["reset"]


def test_a_character_split_between_two_writes_is_not_damage(feed):
    line = encode({"step": 1, "reward/né": 1.0}).encode() + b"\n"
    cut = line.index("é".encode()) + 1
    append(feed.path, line[:cut])
    feed.refresh()
    append(feed.path, line[cut:])
    feed.refresh()
    assert feed.after(0)["values"] == {"reward/né": [1.0]} and feed.problem() == ""


@pytest.mark.parametrize("beyond", [False, True])
def test_a_rewound_file_starts_a_new_generation(feed, beyond):
    append(feed.path, lines(1, 2, 3, 4))
    feed.refresh()
    before = feed.generation
    # a resumed run: the file is replaced, and may have grown past the old end before the next look
    feed.path.write_bytes(lines(1, 2) + (lines(3, 4, 5, 6, seconds=2.0) if beyond else b""))
    feed.refresh()
    found = feed.after(4, before)
    assert found["generation"] != before and found["reset"]
    assert found["steps"] == ([1, 2, 3, 4, 5, 6] if beyond else [1, 2])


def test_damaged_lines_are_left_out_and_named(feed):
    append(feed.path, lines(1) + b"{torn\n" + b'{"no": "step"}\n[1]\n' + b"\xff\xfe\n" + lines(2))
    feed.refresh()
    assert feed.after(0)["steps"] == [1, 2]
    assert (
        feed.after(0)["problem"] == "metrics.jsonl: line 2, 3, 4, 5 is not a JSON object with a step and is left out."
    )


def test_columns_keep_their_places(feed):
    append(feed.path, lines(1) + lines(2, extra=math.nan) + lines(3, extra=5.0, word="x") + lines(4))
    feed.refresh()
    found = feed.after(0)
    assert found["values"]["extra"] == [None, None, 5.0, None] and found["broken"] == {"extra": [2]}
    assert "word" not in found["values"] and json.dumps(found, allow_nan=False)


def test_time_no_room_accounts_for(feed):
    append(feed.path, encode({"step": 1, "time/step": 3.0, "time/generate": 1.5, "time/update": 1.0}).encode() + b"\n")
    feed.refresh()
    assert feed.after(0)["values"]["time/other"] == [0.5]


def test_a_long_run_comes_in_pieces(feed):
    append(feed.path, lines(*range(1, MOST + 11)))
    feed.refresh()
    first = feed.after(0)
    rest = feed.after(first["steps"][-1], first["generation"])
    assert len(first["steps"]) == MOST and first["more"]
    assert rest["steps"] == list(range(MOST + 1, MOST + 11)) and not rest["more"]


def test_the_end_of_a_long_file_is_enough_to_list_a_run(feed):
    append(feed.path, lines(*range(1, 3000)) + lines(3000, **{"reward/mean": math.nan}) + b'{"step": 3001')
    records, damaged = tail(feed.path, 2000)
    assert records[-1]["step"] == 3000 and 10 < len(records) < 100 and not damaged
    assert newest(records, "reward/mean") == 299.9 and newest(records, "nothing") is None
    append(feed.path, b"}\n[]\n")
    records, damaged = tail(feed.path, 10**6)
    assert len(records) == 3001 and damaged
    assert tail(feed.path.with_name("absent")) == ([], False)


# -- runs -------------------------------------------------------------------------------------------------------------------


def test_runs_are_found_in_folders_and_appear_and_disappear(tmp_path):
    runs = Runs([tmp_path / "all", tmp_path / "all" / "deep"])
    assert runs.listing() == {"runs": [], "notes": [f"There is no folder {p}." for p in runs.places]}
    first = make_run(tmp_path / "all" / "one", steps=2, evaluate=False, samples=2)
    make_run(tmp_path / "all" / "deep" / "er" / "two", steps=1, evaluate=False, samples=2, state="running")
    found = {run["name"]: run for run in runs.listing()["runs"]}
    assert found.keys() == {"one", "two"}
    assert (found["one"]["state"], found["one"]["done"], found["one"]["steps"]) == ("finished", 2, 2)
    assert found["two"]["state"] == "killed"  # nobody holds it any more
    shutil.rmtree(first)
    assert [run["name"] for run in runs.listing()["runs"]] == ["two"]
    with pytest.raises(Unknown, match="no such run"):
        runs.metrics(identity(first), 0, None)


def test_a_link_back_does_not_trap_the_search(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    make_run(tmp_path / "a" / "run", steps=1, evaluate=False, samples=2)
    assert list(find([tmp_path])) == [tmp_path / "a" / "run"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.yaml", "a: [", "is damaged"),
        ("config.yaml", "just text", "is damaged"),
        ("status.json", "{", "is damaged"),
        ("evaluations.jsonl", "{}}\n{}\n", "line 1 is not a JSON object"),
        ("metrics.jsonl", "nonsense\n", "has lines that are not JSON objects"),
    ],
)
def test_a_broken_run_is_a_sentence_beside_the_others(tmp_path, name, content, says):
    make_run(tmp_path / "good", steps=1, evaluate=False, samples=2)
    bad = make_run(tmp_path / "bad", steps=1, evaluate=False, samples=2)
    (bad / name).write_text(content)
    runs = Runs([tmp_path])
    found = {run["name"]: run for run in runs.listing()["runs"]}
    assert found["good"]["problem"] == "" and says in found["bad"]["problem"]
    runs.detail(identity(bad)), runs.metrics(identity(bad), 0, None)


def test_a_damaged_rollout_file_is_refused_by_name(tmp_path):
    run = make_run(tmp_path / "run", steps=2, evaluate=False, samples=2)
    runs, name = Runs([tmp_path]), identity(run)
    assert runs.rollouts(name, None)["step"] == 2 and runs.rollouts(name, 1)["step"] == 1
    (run / "rollouts" / "step-000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(Exception, match=r"step-000002\.parquet is damaged"):
        runs.rollouts(name, None)


def test_rollouts_are_whole_groups_with_every_token(tmp_path):
    run = make_run(tmp_path / "run", steps=1, evaluate=False, samples=4)
    found = Runs([tmp_path]).rollouts(identity(run), 1)["rollouts"]
    kept = RunFolder(run).rollouts(1).to_pylist()
    assert len(found) == len(kept) == 32
    assert {"".join(r["pieces"]) for r in found} == {row["text"] for row in kept}
