"""A score that is no share, from the session to the report, the terminal and a comparison: its unit everywhere, no per cent."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
from rich.console import Console

from anypo.cli.methods.compare import leaderboard as terminal
from anypo.cli.terminal.outcome import show
from anypo.compare import cell as cells
from anypo.compare.board import leaderboard
from anypo.compare.comparison import Comparison, about, check_threshold
from anypo.compare.export import row
from anypo.compare.plan import Budget, Cell, contenders, settings
from anypo.compare.report.page import page as compare_page
from anypo.errors import UserError
from anypo.report.page import page
from anypo.run.disk.folder import RunFolder
from anypo.run.evaluation import evaluate
from anypo.run.record.display import Display
from anypo.run.session import resume, train
from anypo.scoring import Evaluation
from anypo.watch.runs import Runs

TASK = "steps_task:make"
SMALL = {"control.prompts": 4, "control.samples": 4}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("return") / "run"
    return train("grpo", "tiny", TASK, set=SMALL, out=out, steps=2, eval_size=6, sft_steps=0, eval_every=1)


def per_cents(text: str) -> list[str]:
    """Numbers that are written as per cent."""
    return re.findall(r"\d[\d.]*(?:\s|&thinsp;)?%", text)


def test_a_run_is_scored_by_its_return(result) -> None:
    assert result.before.unit == result.after.unit == "return" and result.before.n == 6
    assert result.before.low <= result.before.score <= result.before.high
    entries = RunFolder(result.path).evaluations()
    assert [e["label"] for e in entries] == ["before", "step 1", "after"] and all("accuracy" not in e for e in entries)
    assert result.summary()["after"]["score"] == result.after.score
    assert "accuracy/train" not in result.metrics and "reward/return" in result.metrics
    assert RunFolder(result.path).answers("after").num_rows == 6


def test_the_run_is_evaluated_and_resumed_as_it_was_trained(result) -> None:
    again = evaluate(str(result.path), size=6)
    assert again.unit == "return" and again.score == result.after.score
    more = resume(result.path, steps=2)
    assert isinstance(more.before, Evaluation) and more.before.summary() == result.before.summary()


def test_one_episode_is_refused_before_anything_is_kept(tmp_path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        train("grpo", "tiny", TASK, out=tmp_path / "run", steps=1, eval_size=1, sft_steps=0)
    assert not (tmp_path / "run").exists()


def test_the_terminal_says_return(result) -> None:
    console = Console(record=True, width=160, force_terminal=False)
    show(result, console)
    Display(console, "").evaluation("after", result.after)
    said = console.export_text()
    assert re.search(r"return +[\d.]+", said) and "held-out return after" in said and "decisions" in said
    assert not per_cents(said.replace("95 % interval", ""))


def test_the_report_says_return(result) -> None:
    text = page(RunFolder(result.path))
    hero = text[text.index('id="result"') : text.index("</section>", text.index('id="result"'))]
    assert "Held-out return" in hero and "held-out episodes" in hero and "points" not in hero
    head = hero[: hero.index("tiles")].replace("95 % interval", "")
    assert not per_cents(re.sub(r'style="[^"]*"', "", head))
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])
    charts = [chart for group in data["sections"] for chart in group["charts"] if chart["evaluations"]]
    assert [chart["title"] for chart in charts] == ["Return"] and data["answers"] is None
    assert "Accuracy" not in re.sub(r"<script.*", "", text, flags=re.S)


def test_the_watch_page_is_told_the_unit(result) -> None:
    runs = Runs([result.path])
    (listed,) = runs.listing()["runs"]
    assert (listed["score"], listed["unit"]) == (result.after.score, "return") and runs.answers(listed["id"]) == {}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    shared = settings("tiny", [TASK], Budget("updates", 2), sft_steps=0, eval_size=4, evaluations=2, samples=2)
    methods = contenders(["grpo", "rloo"], "tiny", (), SMALL)
    told: list[dict] = []
    records = [
        json.loads(json.dumps(cells.run(Cell(c, TASK, seed, shared), "tiny", told.append)))
        for c in methods
        for seed in range(2)
    ]
    assert told[-1]["unit"] == "return" and {"share", "score"} <= told[-1].keys()
    board = leaderboard(records, "grpo", shared.budget)
    folder = tmp_path_factory.mktemp("comparison")
    return Comparison(folder, shared, (TASK,), tuple(methods), tuple(records), {}, board, about(records))


def test_a_comparison_ranks_returns(comparison) -> None:
    board = comparison.board
    assert board.unit == "return" and comparison.summary()["unit"] == "return"
    assert all("return" in r["final"] and "accuracy" not in r["final"] for r in comparison.records)
    assert all("return" in point for r in comparison.records for point in r["curve"])
    assert {"return_iqm", "return_low", "mean_return"} <= row(board.rows[0], board.unit).keys()
    assert board.rows[0].score.value == max(r.score.value for r in board.rows)
    assert not any("points" in note or "top of the scale" in note for note in board.notes)
    assert asdict(board)["unit"] == "return"


def test_its_tables_and_page_say_return(comparison) -> None:
    console = Console(record=True, width=200)
    console.print(terminal(comparison))
    said = console.export_text()
    assert "held-out return after" in said and "accuracy" not in said
    score = said.splitlines()[2].split()
    assert not score[2].endswith("%")
    text = compare_page(comparison)
    assert "Held-out return after" in text and "Return against budget" in text and "Best held-out return" in text
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert "accuracy" not in body.lower() and not re.search(r'class="score"[^>]*>[\d.]+ %', body)


def test_units_are_not_mixed(comparison) -> None:
    other = [{**r, "task": "chain_sum", "unit": "accuracy"} for r in comparison.records]
    with pytest.raises(UserError, match="different units"):
        leaderboard([*comparison.records, *other], "grpo", Budget("updates", 2))


def test_a_threshold_may_be_any_return_but_only_a_share_of_right_answers(comparison) -> None:
    check_threshold(40.0, [TASK], comparison.settings)
    sums = settings("tiny", ["chain_sum"], Budget("updates", 2))
    with pytest.raises(UserError, match="an accuracy between 0 and 1"):
        check_threshold(40.0, ["chain_sum"], sums)
