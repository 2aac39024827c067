"""`anypo estimators`: the table, its JSON, and one-sentence refusals."""

from __future__ import annotations

import json
import math

import pytest
import typer
from typer.testing import CliRunner

from anypo.cli.methods.estimators import _pm, register
from anypo.errors import UserError


def call(*arguments):
    app = typer.Typer()
    register(app)
    app.command()(lambda: None)
    return CliRunner().invoke(app, ["estimators", *arguments])


def test_table_and_files(tmp_path):
    done = call("--systems", "grpo, rloo", "--staleness", "0,4", "--draws", "40", "--csv", str(tmp_path / "t.csv"))
    assert done.exit_code == 0, done.output
    for word in ("grpo", "rloo*", "angle bias", "staleness 4", "also pulls"):
        assert word in done.output
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5


def test_json():
    done = call("--systems", "grpo", "--staleness", "0", "--draws", "40", "--json")
    rows = json.loads(done.stdout)
    assert rows[0]["system"] == "grpo" and rows[0]["draws"] == 40 and rows[0]["bias_se"] > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--systems", "grpp"), "Did you mean 'grpo'"),
        (("--staleness", "0,100"), "--staleness 100 is out of range"),
        (("--group", "x"), "--group takes whole numbers"),
        (("--reward", "banary"), "Did you mean 'binary'"),
        (("--old", "nobody"), "unknown --old value"),
        (("--plot", "t.png"), "ends in .html"),
        (("--family", "credit"), "Did you mean 'credits'"),
        (("--family", "credits", "--systems", "grpo"), "none of --systems"),
    ],
)
def test_bad_options(arguments, message):
    done = call(*arguments)
    assert isinstance(done.exception, UserError) and message in str(done.exception)


def test_a_family_chooses_among_the_systems():
    done = call("--systems", "grpo,bnpo", "--family", "credits", "--staleness", "0", "--draws", "40", "--json")
    assert [row["system"] for row in json.loads(done.stdout)] == ["bnpo"]


def test_numbers_carry_their_errors():
    assert _pm(0.4631, 0.0221) == "0.463(22)"
    assert _pm(0.01, 0.005, floor=0.05) == "<0.05"
    assert _pm(float("nan"), 1.0) == "–"
    assert _pm(12.3, 0.0) == "12.3"


def test_numbers_are_printed_with_their_sign_and_only_bias_has_a_floor():
    from anypo.cli.methods.estimators import _pm

    assert _pm(-0.139, 0.004) == "-0.1390(40)"
    assert _pm(0.02, 0.01, 0.1) == "<0.1"
    assert _pm(math.nan, 1.0) == "–"
