"""Live warnings of a real run, the page, and the command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from anypo.diagnose import diagnose
from anypo.diagnose.live import warnings
from anypo.diagnose.page import write_page


@pytest.fixture
def command():
    import typer

    from anypo.cli.runs import diagnose as module

    app = typer.Typer()
    module.register(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_that_never_succeeds_warns_once_while_it_trains(trained):
    path, lines = trained
    said = [line for line in lines if "Groups that are all wrong" in line]
    stored = [entry for entry in warnings(path) if entry["pathology"] == "all_wrong"]
    assert len(said) == len(stored) == 1 and stored[0]["step"] == 10
    assert "--set" in said[0] and "\n" not in said[0]


def test_diagnosis_of_the_run(trained, command):
    path, _ = trained
    found = {one.detector.name: one for one in diagnose(path)}
    assert found["all_wrong"].severity == "severe" and found["all_wrong"].rollouts
    assert found["engine_mismatch"].severity == "not measured"
    assert command(path).exit_code == 0
    assert command(path, "--strict").exit_code == 1
    plain = json.loads(command(path, "--json").stdout)
    assert {entry["pathology"] for entry in plain} == set(found)


def test_page(trained, tmp_path):
    path, _ = trained
    page = write_page(path, diagnose(path), tmp_path / "d.html").read_text()
    assert "Groups that are all wrong" in page and "http" not in page.split("<main")[1].split("<script")[0]


def test_attribution_and_probe_from_the_command_line(trained, command):
    path, _ = trained
    out = json.loads(command(path, "--probe", "--size", 4, "--json").stdout)
    assert 0 <= out["probe"]["accuracy"] <= 1 and len(out["probe"]["behaviour"]) == 3
    assert command(path, "--step", 3).exception is not None
