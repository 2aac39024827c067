"""Running comparisons with a stand-in for the cells: resuming, failures, interrupts, the lock, searching, files."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from anypo.cli.methods import compare as command
from anypo.compare import run as runner
from anypo.compare.comparison import compare, search
from anypo.compare.plan import Budget, contenders
from anypo.compare.search import compositions, grammar
from anypo.errors import Killed, UserError
from anypo.run.disk.lock import Lock
from anypo.systems import find

STUB = (sys.executable, str(Path(__file__).with_name("stub_cell.py")))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, no real warm start, and the stub for every cell."""
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(runner, "PROGRAM", STUB)
    monkeypatch.setattr(runner, "prepare", lambda task, shared, folder, watcher=None: folder / "init" / task)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(place: Path) -> list[str]:
    log = place / "log"
    return sorted(line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()) if log.exists() else []


def small(out: Path, methods=("grpo", "dapo"), **options):
    return compare(methods, budget="tokens=100k", seeds=2, out=out, jobs=2, program=STUB, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_a_comparison_as_ctrl_c_does(place, monkeypatch, number) -> None:
    monkeypatch.setenv("STUB_SLOW", "dapo")
    processes: list[subprocess.Popen[str] | None] = []

    class Once(runner.Watcher):
        def progress(self, cell, share, score, unit) -> None:
            if cell.contender.label == "dapo":
                os.kill(os.getpid(), number)

    start = runner.Crew._start
    monkeypatch.setattr(
        runner.Crew,
        "_start",
        lambda self, *a: (processes.append(start(self, *a)), processes[-1])[1],  # type: ignore[func-returns-value]
    )
    with pytest.raises(Killed) as ended:
        small(place / "out", watcher=Once())
    assert ended.value.code == 128 + number and signal.getsignal(number) is signal.SIG_DFL
    started = [process for process in processes if process]  # none is, once the comparison was stopped
    assert started and all(process.wait(10) is not None for process in started)
    monkeypatch.delenv("STUB_SLOW")
    assert [row.label for row in small(place / "out").board.rows] == ["dapo", "grpo"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"label": "grpo", "final": 3}'])
def test_a_damaged_record_is_made_again(place, content: str) -> None:
    before = small(place / "out")
    next(iter((place / "out/cells").glob("*.json"))).write_text(content)
    assert small(place / "out").board == before.board
    assert len(ran(place)) == 5


def test_a_comparison_leaves_everything_behind(place) -> None:
    found = small(place / "out")
    assert [row.label for row in found.board.rows] == ["dapo", "grpo"] and found.board.base == "grpo"
    assert ran(place) == ["dapo 0", "dapo 1", "grpo 0", "grpo 1"]
    rows = list(csv.DictReader((place / "out" / "leaderboard.csv").open()))
    assert [row["method"] for row in rows] == ["dapo", "grpo"]
    assert float(rows[0]["accuracy_iqm"]) == found.board.rows[0].score.value
    table = pq.read_table(place / "out" / "cells.parquet").to_pylist()
    assert len(table) == 4 and {"method", "seed", "final_accuracy", "spent_tokens"} <= table[0].keys()
    assert pq.read_table(place / "out" / "curves.parquet").num_rows == 36
    summary = json.loads((place / "out" / "comparison.json").read_text())
    assert summary["leaderboard"][0]["method"] == "dapo" and summary["settings"]["budget"] == "tokens=100k"
    assert "</html>" in (place / "out" / "report.html").read_text()


def test_finished_cells_are_not_run_again_and_more_seeds_reuse_them(place) -> None:
    first = small(place / "out")
    before = ran(place)
    assert small(place / "out").board == first.board
    assert ran(place) == before
    compare(("grpo", "dapo", "rloo"), budget="tokens=100k", seeds=3, out=place / "out", jobs=2, program=STUB)
    assert len(ran(place)) == 9 and ran(place).count("grpo 0") == 1


def test_another_budget_is_another_cell(place) -> None:
    small(place / "out")
    compare(("grpo",), budget="tokens=50k", seeds=1, out=place / "out", program=STUB)
    assert ran(place).count("grpo 0") == 2


def test_failed_cells_are_left_out_and_tried_again(place, monkeypatch) -> None:
    monkeypatch.setenv("STUB_FAIL", "dapo")
    found = small(place / "out")
    assert [row.label for row in found.board.rows] == ["grpo"] and len(found.failures) == 2
    reason = found.failures["dapo on chain_sum, seed 0"]
    assert reason.startswith("the loss is not finite (exit 2")
    log = next((place / "out" / "cells").glob("dapo-*.log"))
    assert str(log) in found.failures["dapo on chain_sum, seed 0"] + found.failures["dapo on chain_sum, seed 1"]
    monkeypatch.delenv("STUB_FAIL")
    assert not small(place / "out").failures
    assert ran(place).count("dapo 0") == 2 and ran(place).count("grpo 0") == 1
    assert not list((place / "out" / "cells").glob("*.log"))


def test_nothing_but_failures_is_an_error(place, monkeypatch) -> None:
    monkeypatch.setenv("STUB_FAIL", "dapo")
    with pytest.raises(UserError, match="every cell of the comparison failed; the first was dapo on chain_sum"):
        small(place / "out", methods=("dapo",))
    with pytest.raises(UserError, match="every run of the baseline dapo failed"):
        small(place / "out", base="dapo")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "dpao"}, "Did you mean 'dapo'"),
        ({"threshold": 40.0}, "an accuracy between 0 and 1"),
        ({"vary": ["trust=clip"]}, "at least two levels"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(place, options, said) -> None:
    with pytest.raises(UserError, match=said):
        small(place / "out", **options)
    assert not (place / "out").exists() and not ran(place)


def test_one_process_at_a_time(place) -> None:
    (place / "out").mkdir()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        import psutil

        owner = {"pid": other.pid, "started": psutil.Process(other.pid).create_time(), "since": "12:00"}
        import socket

        (place / "out" / ".lock").write_text(json.dumps(owner | {"host": socket.gethostname()}))
        with pytest.raises(UserError, match=f"in use by process {other.pid}"):
            small(place / "out")
    finally:
        other.kill()
        other.wait()
    small(place / "out")
    assert not Lock(place / "out" / ".lock").held()


def test_the_folder_of_a_run_is_not_taken(place) -> None:
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="holds a run"):
        small(place / "run")


def test_ctrl_c_ends_the_cells_and_leaves_a_state_that_goes_on(place) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from anypo import cli
from anypo.compare import run, comparison
run.prepare = lambda task, shared, folder, watcher=None: folder / "init" / task
comparison.runner.PROGRAM = {STUB!r}
comparison.compare.__kwdefaults__["program"] = {STUB!r}
sys.argv = ["anypo", "compare", "grpo,dapo", "--seeds", "1", "--out", "out", "-j", "1", "--budget", "tokens=100k"]
cli.main()
"""
    environment = {**os.environ, "STUB_SLOW": "dapo"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while "dapo 0" not in ran(place):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "1 of 2 runs are finished and kept; the same command goes on" in said
    import psutil

    assert not [
        p
        for p in psutil.process_iter(["cmdline"])
        if "stub_cell.py" in " ".join(p.info["cmdline"] or []) and str(place) in " ".join(p.info["cmdline"])
    ]
    compare(("grpo", "dapo"), budget="tokens=100k", seeds=1, out=place / "out", program=STUB)
    assert ran(place) == ["dapo 0", "dapo 0", "grpo 0"]


def test_halving_spends_the_budget_and_keeps_the_better_half(place) -> None:
    found = search("grpo", budget="tokens=80k", count=8, out=place / "out", jobs=2, program=STUB)
    assert found.search is not None
    rungs = found.search.rungs
    assert [len(r.scores) for r in rungs] == [8, 4, 2] and [len(r.survivors) for r in rungs] == [4, 2, 1]
    assert sum(len(r.scores) * r.budget.amount for r in rungs) == pytest.approx(80_000)
    for rung, following in itertools.pairwise(rungs):
        assert set(following.scores) == set(rung.survivors)
        out = set(rung.scores) - set(rung.survivors)
        assert min(rung.scores[s] for s in rung.survivors) >= max(rung.scores[o] for o in out)
    best = contenders([str(place / "out" / "best.yaml")], "tiny")[0]
    assert best.algorithm["credit"] == found.search.winner.algorithm["credit"]
    assert best.algorithm["objective"] == found.search.winner.algorithm["objective"]
    assert "The search" in (place / "out" / "report.html").read_text()
    assert "search" in found.summary()


def test_a_failing_composition_goes_out(place, monkeypatch) -> None:
    start = contenders(["grpo"], "tiny")[0]
    monkeypatch.setenv("STUB_FAIL", compositions(start, 4)[1].label)
    found = search("grpo", budget="tokens=80k", count=4, out=place / "out", program=STUB)
    assert found.search is not None and compositions(start, 4)[1].label not in found.search.rungs[0].survivors
    assert len(found.failures) == 1


def test_the_grammar_holds_only_what_the_base_accepts() -> None:
    axes = grammar(find("grpo").algorithm())
    by_name = {axis.name: axis.levels for axis in axes}
    assert "group_mean" in by_name["credit.centre"] and "greedy" not in by_name["credit.centre"]
    base = contenders(["grpo"], "tiny")[0]
    drawn = compositions(base, 12)
    assert drawn[0] == base and len({json.dumps(c.algorithm, default=str) for c in drawn}) == 12
    assert [c.label for c in compositions(base, 12)] == [c.label for c in drawn]


def app() -> typer.Typer:
    out = typer.Typer()
    command.register(out)
    out.command()(lambda: None)
    return out


def call(monkeypatch, *arguments: str):
    monkeypatch.setitem(compare.__kwdefaults__, "program", STUB)
    monkeypatch.setitem(search.__kwdefaults__, "program", STUB)
    return CliRunner().invoke(app(), ["compare", *arguments], env={"COLUMNS": "200"})


def test_the_command_prints_the_leaderboard(place, monkeypatch) -> None:
    found = call(
        monkeypatch, "grpo,dapo", "--seeds", "2", "--budget", "tokens=100k", "--csv", "board.csv", "--report", "r.html"
    )
    assert found.exit_code == 0, found.output
    assert "held-out accuracy after 100k generated tokens" in found.output
    assert "dapo" in found.output and "comparisons/" in found.output
    assert (place / "board.csv").exists() and (place / "r.html").exists()


def test_the_command_as_json_and_with_failures(place, monkeypatch) -> None:
    monkeypatch.setenv("STUB_FAIL", "dapo")
    found = call(monkeypatch, "grpo,dapo", "--seeds", "1", "--json")
    assert found.exit_code == 1
    plain = json.loads(found.stdout)
    assert [row["method"] for row in plain["leaderboard"]] == ["grpo"]
    assert "dapo on chain_sum, seed 0" in plain["failures"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grpo,dapo", "--search", "halving"), "starts from one method"),
        (("grpo", "--search", "random"), "unknown search 'random'"),
        (("grpo", "--search", "halving", "--base", "grpo"), "--base has no meaning"),
        (("grpo", "--budget", "2M"), "unknown budget '2M'"),
    ],
)
def test_the_command_refuses_in_a_sentence(monkeypatch, arguments, said) -> None:
    found = call(monkeypatch, *arguments)
    assert isinstance(found.exception, UserError) and said in str(found.exception)


def test_the_default_folder_depends_on_the_conditions_alone(place, monkeypatch) -> None:
    call(monkeypatch, "grpo", "--seeds", "1")
    call(monkeypatch, "grpo,dapo", "--seeds", "2")
    call(monkeypatch, "grpo", "--seeds", "1", "--budget", "tokens=1k")
    assert len(list((place / "comparisons").iterdir())) == 2
    assert ran(place).count("grpo 0") == 2
    assert Budget.parse("tokens=200k") == Budget("tokens", 2e5)
