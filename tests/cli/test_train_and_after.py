"""A whole run from the command line, and what can be asked of it afterwards; killed and resumed."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from killing import killed_run, results

SMALL = (
    "--model",
    "tiny",
    "--sft-steps",
    "2",
    "--eval-size",
    "8",
    "--set",
    "control.prompts=4",
    "--set",
    "control.samples=4",
)


def test_train_then_look_at_it_every_way(anypo):
    done = anypo("train", *SMALL, "--steps", "2", "--out", "run", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["before"]["n"] == found["after"]["n"] == 8 and found["last_step"]["step"] == 2
    assert anypo("evaluate", "run", "--size", "8", "--json").code == 0
    rows = anypo("rollouts", "run", "select step, count(*) as n from rollouts group by step order by step", "--json")
    assert rows.code == 0 and [(r["step"], r["n"]) for r in json.loads(rows.out)] == [(1, 16), (2, 16)]
    os.remove("run/report.html")
    assert anypo("report", "run").code == 0 and os.path.getsize("run/report.html") > 10_000
    more = anypo("resume", "run", "--steps", "3", "--json")
    assert more.code == 0 and json.loads(more.out)["last_step"]["step"] == 3


def test_the_table_says_before_and_after_and_what_next(anypo):
    done = anypo("train", *SMALL, "--steps", "1", "--out", "run")
    assert done.code == 0
    for word in ("before", "after", "report", "try next", "--system rloo"):
        assert word in done.out


def test_a_composition_survives_the_way_through_yaml(anypo):
    shown = anypo("systems", "show", "dapo", "--yaml")
    with open("dapo.yaml", "w") as file:
        file.write(shown.out)
    read = anypo("train", "--config", "dapo.yaml", "--model", "tiny", "--dry-run")
    assert read.code == 0
    assert yaml.safe_load(read.out)["algorithm"] == yaml.safe_load(shown.out)


def test_killed_and_resumed_equals_uninterrupted(anypo, tmp_path):
    words = ("train", *SMALL, "--steps", "12", "--save-every", "2", "--eval-every", "3")
    killed_run(tmp_path / "killed", words, 5)
    assert anypo("resume", "killed").code == 0
    assert anypo(*words, "--out", "whole").code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--system", "grop"), "Did you mean 'grpo'"),
        (("train", "--model", "./tinny"), "there is no model folder './tinny'"),
        (("train", "--task", "chain_sun"), "Did you mean 'chain_sum'"),
        (("train", "--set", "objective.trust.hihg=0.3"), "Did you mean 'objective.trust.high'"),
        (("train", "--set", "objective.trust.high=-2"), "'high' = -2"),
        (("train", "--set", "control.samples=1"), "every advantage would be zero"),
        (("train", "--steps", "x"), "--steps"),
        (("train", "--config", "none.yaml"), "no algorithm file"),
        (("resume", "nowhere"), "there is no run"),
        (("rollouts", "nowhere", "select 1"), "there is no run"),
        (("report", "nowhere"), "there is no run"),
        (("compare", "grpo,grop"), "Did you mean 'grpo'"),
        (("verify", "grop"), "Did you mean"),
        (("systems", "show", "grop"), "Did you mean 'grpo'"),
    ],
)
def test_bad_input_is_one_sentence_and_no_result(anypo, tmp_path, words, says):
    done = anypo(*words)
    assert done.code == 2 and says in done.err and "Traceback" not in done.err
    assert not list(tmp_path.glob("runs/*"))
    assert not list(tmp_path.rglob("model")) and not list(tmp_path.rglob("*.parquet"))
