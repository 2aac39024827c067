import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
from folder_making import control, credited, group, language, letters
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anypo.cli.runs import rollouts as command
from anypo.data.kept import Kept
from anypo.data.records import Group
from anypo.errors import UserError
from anypo.measures.rankings import stored
from anypo.run.disk import rollouts
from anypo.run.disk.folder import RunFolder

# -- tables -------------------------------------------------------------------------------------------------------------------


def test_a_row_says_everything_about_its_rollout():
    asked = group(5, ["abc", "d"], step=7)
    batch = credited([asked])
    first, second = rollouts.table(7, [asked], batch, letters).to_pylist(maps_as_pydicts="strict")
    assert first == {
        "step": 7, "group_id": 0, "prompt": 5, "problem_index": None, "problem": "question 5", "answer": "answer 5", "text": "abc",
        "reward": 0.0, "rewards": {"correct": 0.0, "format": 0.5}, "advantage": 100.0, "trained": True, "length": 3,
        "finish": "stop", "temperature": 1.0, "sample": 0, "version_min": 3, "version_max": 5, "parent": -1, "fork": -1,
        "visit": 0, "guidance": "", "tag": "", "keys": {}, "failed": "", "tokens": [81, 58, 97, 98, 99], "roles": [0, 0, 1, 1, 1],
        "media": None, "source": None, "guide": None, "level": None,
        "pieces": ["Q", ":", "a", "b", "c"], "turns": None, "logp": [-0.125, -0.25, -0.375],
        "entropy": [0.25, 0.25, 0.25], "advantages": [0.0, 1.0, 2.0], "kept": None,
    }  # fmt: skip
    assert (second["sample"], second["advantage"], second["advantages"]) == (1, 101.0, [10.0])


def test_advantages_find_their_rollout_in_a_shuffled_and_thinned_batch():
    groups = [group(1, ["aa", "b"]), group(2, ["ccc", "dd"])]
    batch = credited(groups).select(torch.tensor([3, 0]))
    permuted = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    order = permuted[torch.argsort(batch["position"][permuted], stable=True)]  # sequences mixed, time order kept
    mixed = batch.__class__({k: v[order] for k, v in batch.rows.items()}, batch.sequences, 2, batch.trajectories)
    rows = {row["text"]: row for row in rollouts.table(1, groups, mixed).to_pylist()}
    assert {text: row["trained"] for text, row in rows.items()} == {"aa": True, "b": False, "ccc": False, "dd": True}
    assert rows["aa"]["advantages"] == [0.0, 1.0] and rows["dd"]["advantages"] == [30.0, 31.0]
    assert rows["dd"]["advantage"] == 103.0 and rows["b"]["advantage"] is None and rows["b"]["advantages"] is None


def test_a_rollout_that_a_part_changed_is_still_recognised():
    asked = group(1, ["aa", "b"])
    changed = asked.replace(trajectories=tuple(t.replace(reward=9.0, guidance="hint") for t in asked.trajectories))
    rows = rollouts.table(1, [asked], credited([changed])).to_pylist()
    assert [row["advantage"] for row in rows] == [100.0, 101.0]


def test_without_a_sequence_advantage_the_mean_of_the_decisions_is_taken():
    asked = group(1, ["aaa"])
    batch = credited([asked])
    batch = batch.__class__(
        batch.rows, {k: v for k, v in batch.sequences.items() if k != "advantage"}, 1, batch.trajectories
    )
    assert rollouts.table(1, [asked], batch).to_pylist()[0]["advantage"] == 1.0


def test_several_turns_messages_and_control_rollouts():
    two = language(1, "ab", between="(no)")
    (row,) = rollouts.table(1, [Group(1, (two,))], None, letters).to_pylist()
    assert "".join(row["pieces"]) == "Q:ab(no)ok" and row["roles"] == [0, 0, 1, 1, 2, 2, 2, 2, 1, 1]
    assert (row["problem"], row["answer"], row["trained"]) == ("", "", False)
    (row,) = rollouts.table(1, [Group(2, (control(2),))], None, letters).to_pylist()
    assert row["tokens"] is None and row["pieces"] is None and row["length"] == 4 and row["logp"] == [0.0] * 4

    class Chat:
        messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"})

    assert rollouts.problem_text(Chat()) == "system: be brief\n\nuser: why?" and rollouts.problem_text(None) == ""


def test_keys_tags_and_visits_are_columns(tmp_path):
    asked = group(5, ["abc", "d"]).replace(visit=3)
    keyed, plain = asked.trajectories
    keyed = keyed.replace(keys={"session": 4, "state": np.array([2**62 + 1, 7, 7])}, tag="solver")
    made = rollouts.table(1, [asked.replace(trajectories=(keyed, plain.replace(guidance="demo")))])
    rollouts.write(tmp_path / "r.parquet", made)
    first, second = pq.read_table(tmp_path / "r.parquet").to_pylist(maps_as_pydicts="strict")
    assert first["keys"] == {"session": [4], "state": [2**62 + 1, 7, 7]} and (first["tag"], first["visit"]) == (
        "solver",
        3,
    )
    assert second["keys"] == {} and second["tag"] == "demo"


def test_no_groups_make_an_empty_table_with_all_columns():
    assert rollouts.table(1, []).schema == rollouts.SCHEMA


# -- pieces -------------------------------------------------------------------------------------------------------------------


def utf8(tokens: np.ndarray) -> str:
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


def sentencepiece(tokens: np.ndarray) -> str:
    """Every token brings a space before it, which is dropped at the beginning of a text."""
    return "".join(f" {token}" for token in tokens.tolist())[1:]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_pieces_of_a_byte_tokenizer_add_up_to_the_text(text):
    tokens = np.frombuffer(text.encode(), dtype=np.uint8)
    found = rollouts.pieces(tokens, utf8)
    assert "".join(found) == text and len(found) == len(tokens)
    ends, at = [], 0
    for character in text:
        at += len(character.encode())
        ends.append(at - 1)
    assert [i for i, piece in enumerate(found) if piece] == ends  # a character goes to the token that completes it


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12))
def test_pieces_add_up_even_where_the_bytes_are_not_text(data):
    tokens = np.frombuffer(data, dtype=np.uint8)
    found = rollouts.pieces(tokens, utf8)
    assert "".join(found) == utf8(tokens) and len(found) == len(tokens)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=8))
def test_pieces_of_a_tokenizer_that_treats_the_beginning_specially(tokens):
    found = rollouts.pieces(np.array(tokens, dtype=np.int64), sentencepiece)
    assert found == [str(t) if i == 0 else f" {t}" for i, t in enumerate(tokens)]


# -- SQL ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "it's a run", {}) as folder:
        for step in (1, 2):
            groups = [group(step, ["aa", "b", "ccc"], step)]
            folder.write_rollouts(step, groups, credited(groups), letters)
            folder.append_metrics(
                {"step": step, "reward/mean": step / 2, "update/grad_norm": math.nan if step == 2 else 1.0}
            )
        yield folder


def test_queries_over_rollouts_and_metrics(folder):
    found = folder.sql(
        "select step, sum(length) as n, max(rewards['correct']) as best from rollouts group by step order by 1"
    )
    assert found.to_pylist() == [{"step": 1, "n": 6, "best": 1.0}, {"step": 2, "n": 6, "best": 1.0}]
    joined = folder.sql("select reward_mean, text from metrics join rollouts using (step) where text = 'b' order by 1")
    assert joined.to_pylist() == [{"reward_mean": 0.5, "text": "b"}, {"reward_mean": 1.0, "text": "b"}]
    assert folder.sql("select step from metrics where isnan(update_grad_norm)").to_pylist() == [{"step": 2}]
    assert folder.sql("summarize rollouts").num_rows == len(rollouts.SCHEMA)


def test_an_empty_run_can_be_asked_too(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for view in ("rollouts", "answers", "metrics", "evaluations"):
            assert folder.sql(f"from {view}").num_rows == 0


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("selec text from rollouts", "Parser Error: syntax error"),
        ("select nope from rollouts", '"nope" not found'),
        ("from rolouts", "rolouts does not exist"),
        ("select 1; select 2", "must be one SELECT"),
        ("", "must be one SELECT"),
        ("drop view rollouts", "must be one SELECT"),
        ("copy rollouts to 'stolen.csv'", "must be one SELECT"),
        ("attach 'other.db'", "must be one SELECT"),
        ("select cast(text as int) from rollouts", "Conversion Error"),
    ],
)
def test_bad_queries_are_refused_in_one_line(folder, query, words):
    with pytest.raises(UserError) as refusal:
        folder.sql(query)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b"PAR1 nonsense", lambda b: b"", lambda b: b[:40] + bytes(40) + b[80:]]
)
def test_a_damaged_file_is_named(folder, damage):
    file = folder.path / "rollouts" / "step-000002.parquet"
    file.write_bytes(damage(file.read_bytes()))
    for ask in (lambda: folder.sql("select * from rollouts"), lambda: folder.rollouts(2)):
        with pytest.raises(UserError, match=r"step-000002\.parquet is damaged"):
            ask()
    assert folder.rollouts(1).num_rows == 3


# -- the command ----------------------------------------------------------------------------------------------------------------


def ask(*arguments: str):
    app = typer.Typer()
    command.register(app)
    app.command()(lambda: None)
    return CliRunner().invoke(app, ["rollouts", *arguments])


def test_the_command_shows_a_summary_of_every_step(folder):
    shown = ask(str(folder.path)).output.split("\n")
    assert shown[0].split() == ["step", "rollouts", "reward", "spread", "length", "truncated", "trained"]
    assert shown[2].split() == ["1", "3", "0.333", "0.471", "2", "0", "1"] and "2 rows" in shown[3]


def test_the_command_says_what_was_set_aside_and_why(folder):
    assert "aside" not in ask(str(folder.path)).output, "nothing was"
    lost = [group(9, ["d"], 2).replace(aside=True), group(8, ["e", "f"], 2)]
    folder.write_rollouts(2, [group(2, ["aa"], 2)], None, letters, aside=lost)
    assert (
        "set aside, not trained on: 2 by the filter and 1 by the generator (the view aside)"
        in ask(str(folder.path)).output
    )
    (row,) = json.loads(ask(str(folder.path), "select why, text, pieces from aside where prompt = 9", "--json").output)
    assert row == {"why": "generator", "text": "d", "pieces": ["Q", ":", "d"]}


def test_the_command_writes_json_and_csv(folder):
    query = "select text, rewards, logp from rollouts where step = 1 order by length desc limit 1"
    (row,) = json.loads(ask(str(folder.path), query, "--json").output)
    assert row == {"text": "ccc", "rewards": {"correct": 0.0, "format": 0.5}, "logp": [-0.125, -0.25, -0.375]}
    header, line = ask(str(folder.path), query, "--csv").output.split()[0], ask(str(folder.path), query, "--csv").output
    assert header == "text,rewards,logp" and '"[-0.125, -0.25, -0.375]"' in line
    (row,) = json.loads(
        ask(str(folder.path), "select update_grad_norm as g from metrics where step = 2", "--json").output
    )
    assert row == {"g": "NaN"}


def test_the_command_says_how_much_it_left_out(folder):
    assert "2 of 6 rows" in ask(str(folder.path), "from rollouts select text, reward", "--limit", "2").output
    assert isinstance(ask(str(folder.path), "--json", "--csv").exception, UserError)
    assert isinstance(ask(str(folder.path), "nonsense").exception, UserError)


OUTSIDE = [
    "with x as (copy (select 1 as a) to '{file}' (format json)) select * from x",
    "select * from read_text('{file}')",
    "select * from read_blob('{file}')",
    "select * from read_csv('{file}')",
    "select * from '{file}'",
    "select * from read_parquet('{parquet}')",
    "select * from glob('{folder}/*')",
    "select * from 'http://127.0.0.1:9/a.parquet'",
    "select * from read_csv('s3://bucket/a.csv')",
    "select * from sqlite_scan('{file}', 'a')",
    "select * from query('select * from read_text(''{file}'')')",
    "select * from secret",
    "attach '{file}' as other",
    "pragma database_list",
    "install sqlite",
    "load sqlite",
    "set enable_external_access = true",
    "export database '{folder}'",
    "select * from arrow_scan(1::pointer, 1::pointer, 1::pointer)",
]


@pytest.mark.parametrize("query", OUTSIDE)
def test_a_query_reaches_nothing_but_its_views(folder, tmp_path, query, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    secret = [{"a": 1}]  # a Python variable of the caller
    file = tmp_path / "secret.json"
    file.write_text(str(secret))
    parquet = folder.path / "rollouts" / "step-000001.parquet"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"file": file, "folder": tmp_path, "parquet": str(parquet).replace("'", "''")}
    with pytest.raises(UserError):
        folder.sql(query.format(**places))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_metrics_of_mixed_types_are_texts(folder):
    folder.append_metrics({"step": 3, "reward/mean": "none", "update/grad_norm": [1]})
    found = folder.sql("select reward_mean from metrics order by step").column(0).to_pylist()
    assert found == ["0.5", "1.0", '"none"']


def test_values_that_python_has_not_are_shown_as_text():
    import duckdb

    from anypo.cli.runs.rollouts import _values

    table = duckdb.sql("select date '-infinity' as a, timestamp 'infinity' as b, map([[1], [2]], [3, 4]) as c, 5 as d")
    columns = [_values(column) for column in table.to_arrow_table().columns]
    assert columns == [["-infinity"], ["infinity"], ["{[1]=3, [2]=4}"], [5]]


def test_the_tokens_that_truncation_kept_are_in_the_row():
    asked = group(1, ["abc"])
    kept = Kept.of([np.array([97, 98]), None, np.array([99])])
    (row,) = rollouts.table(
        1, [asked.replace(trajectories=tuple(t.replace(kept=kept) for t in asked.trajectories))]
    ).to_pylist()
    assert row["kept"] == [[97, 98], [], [99]]
    assert [ids.tolist() for ids in stored(row).kept] == row["kept"]
