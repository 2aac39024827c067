"""The leaderboard on records whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import factorial, record, records

from anypo.compare.board import leaderboard, reach
from anypo.compare.plan import Budget
from anypo.compare.stats import interquartile_mean, runs_needed
from anypo.errors import UserError

BUDGET = Budget("tokens", 1e5)


def flat(label: str, seed: int, accuracy: float, task: str = "chain_sum", start: float = 0.2) -> dict:
    """A record whose curve rises linearly from `start` to `accuracy`."""
    found = record(label, seed, 0.1, 4.0, task)
    for point in found["curve"]:
        point["accuracy"] = start + point["share"] * (accuracy - start)
    found["final"]["accuracy"] = accuracy
    return found


def board(scores: dict[str, list[float]], base: str, **options):
    made = [flat(label, seed, value) for label, values in scores.items() for seed, value in enumerate(values)]
    return leaderboard(made, base, BUDGET, **options)


def test_rows_are_ordered_scored_and_tied() -> None:
    found = board({"a": [0.5, 0.52, 0.51, 0.9], "b": [0.50, 0.51, 0.53, 0.52], "c": [0.3, 0.31, 0.32, 0.3]}, "c")
    assert [row.label for row in found.rows] == ["a", "b", "c"] or [row.label for row in found.rows] == ["b", "a", "c"]
    rows = {row.label: row for row in found.rows}
    assert rows["a"].score.value == pytest.approx(interquartile_mean([0.5, 0.52, 0.51, 0.9]))
    assert rows["a"].rank == rows["b"].rank == (1, 2) and rows["c"].rank == (3, 3)
    assert sorted(found.tied) == ["a", "b"]
    assert rows["a"].beats_base.value == 1.0 and rows["c"].beats_base.value == 0.5
    assert any("First place is open between 2 methods" in note for note in found.notes)


def test_methods_that_did_what_their_base_would_have_are_named() -> None:
    scores = {"gspo": [0.5, 0.52], "mhpo": [0.51, 0.52], "grpo": [0.5, 0.52], "rloo": [0.5, 0.53]}
    same = {"name": "grpo", "steps": 20, "same": 20, "learned": 15}
    made = [
        flat(label, seed, value)
        | {"base": same if label in ("gspo", "mhpo") else same | {"name": "reinforce", "same": 3}}
        for label, values in scores.items()
        for seed, value in enumerate(values)
    ]
    found = leaderboard(made, "grpo", BUDGET).notes
    said = "gspo and mhpo computed what grpo would have in every one of 80 steps, and so the row grpo again"
    assert any(note.startswith(said) for note in found)
    assert not any("exactly the same" in note for note in found)  # gspo ended where grpo did: why is known


def test_methods_that_computed_the_same_are_named() -> None:
    found = board({"a": [0.5, 0.52], "b": [0.5, 0.52], "c": [0.5, 0.53], "d": [0.1, 0.2]}, "d")
    (note,) = [note for note in found.notes if "exactly the same accuracy" in note]
    assert note.startswith("a and b ended")
    assert not any("exactly the same" in n for n in board({"a": [0.5], "b": [0.5]}, "b").notes)


def test_the_cost_of_the_threshold_is_interpolated() -> None:
    found = board({"fast": [0.8, 0.8], "slow": [0.6, 0.4]}, "slow", threshold=0.5)
    fast, slow = found.rows
    assert fast.tokens_to == pytest.approx(1e5 * 0.3 / 0.6)
    assert slow.reached == 0.5 and slow.tokens_to == pytest.approx(1e5 * 0.3 / 0.4)
    assert found.thresholds == {"chain_sum": 0.5}


def test_the_default_threshold_is_half_way_to_the_best() -> None:
    found = board({"a": [0.8, 0.8], "b": [0.3, 0.3]}, "b")
    assert found.thresholds["chain_sum"] == pytest.approx(0.5)
    assert math.isnan(next(row for row in found.rows if row.label == "b").tokens_to)


def test_no_progress_has_no_threshold_and_is_said() -> None:
    found = board({"a": [0.1, 0.1], "b": [0.15, 0.15]}, "b")
    assert math.isnan(found.thresholds["chain_sum"])
    assert all(row.reached == 0.0 for row in found.rows)
    assert any("No method ended above the start" in note for note in found.notes)


def test_reaching() -> None:
    point = lambda tokens, accuracy: {"tokens": tokens, "trained": 0, "seconds": 0, "updates": 0, "accuracy": accuracy}
    curve = [point(0, 0.2), point(10, 0.4), point(20, 0.3), point(30, 0.6)]
    assert reach(curve, 0.3)["tokens"] == pytest.approx(5)
    assert reach(curve, 0.5)["tokens"] == pytest.approx(20 + 10 * 2 / 3)
    assert reach(curve, 0.1)["tokens"] == 0
    assert reach(curve, 0.7) is None


def test_power_is_told_when_the_runs_are_too_few_for_the_difference() -> None:
    ours, base = [0.50, 0.56, 0.53], [0.49, 0.55, 0.51]
    found = board({"a": ours, "grpo": base}, "grpo")
    needed = runs_needed(ours, base)
    assert any(f"takes about {needed:,} runs a method, and there are 3" in note for note in found.notes)
    clear = board({"a": [0.9, 0.91, 0.92], "grpo": [0.1, 0.11, 0.12]}, "grpo")
    assert not any("runs a method, and there are" in note for note in clear.notes)


def test_one_run_ties_everything() -> None:
    found = board({"a": [0.9], "b": [0.1], "c": [0.5]}, "b")
    assert {row.rank for row in found.rows} == {(1, 3)}
    assert any("One run a method says nothing" in note for note in found.notes)


def test_several_tasks_are_strata() -> None:
    made = [
        flat(m, s, v + d, task)
        for m, v in (("a", 0.5), ("b", 0.4))
        for s in range(3)
        for task, d in (("x", 0.0), ("y", 0.3))
    ]
    found = leaderboard(made, "b", BUDGET)
    best = found.rows[0]
    assert best.score.value == pytest.approx(0.65) and best.score.high - best.score.low < 1e-12
    assert set(found.thresholds) == {"x", "y"} and best.beats_base.value == 1.0


def test_failed_and_missing_runs_are_told() -> None:
    made = [r for r in records(3, 3) if not (r["label"] == "grpo" and r["seed"] == 2)]
    found = leaderboard(made, "grpo", BUDGET, failures={"grpo on chain_sum, seed 2": "no memory"})
    assert any("1 of 9 cells failed" in note and "grpo on chain_sum, seed 2" in note for note in found.notes)
    assert any("unequal numbers of runs" in note for note in found.notes)


def test_overspending_and_other_code_are_told() -> None:
    made = records(2, 2)
    for r in made:
        if r["label"] == "dapo":
            r["spent"] = {**r["spent"], "tokens": 1.2e5}
            r["code"] = {"commit": "other"}
    found = leaderboard(made, "cispo", BUDGET)
    assert any("dapo spent 20 % more than allowed" in note for note in found.notes)
    assert any("2 different versions of the code" in note for note in found.notes)


def test_what_is_unknown_stays_unknown() -> None:
    made = records(2, 2)
    for r in made:
        r["final"]["entropy"] = math.nan
    assert math.isnan(leaderboard(made, "cispo", BUDGET).rows[0].means["entropy"])


def test_a_factorial_design_gives_effects() -> None:
    found = leaderboard(factorial(), "credit=mean trust=clip", BUDGET)
    assert [e.factors for e in found.effects] == [("credit",), ("trust",), ("credit", "trust")]
    made = factorial()
    mean = np.mean([r["final"]["accuracy"] for r in made])
    loo = np.mean([r["final"]["accuracy"] for r in made if r["factors"]["credit"] == "loo"])
    assert found.effects[0].levels[("loo",)].value == pytest.approx(loo - mean)
    holes = [r for r in made if r["factors"] != {"credit": "loo", "trust": "clip"}]
    broken = leaderboard(holes, "credit=mean trust=clip", BUDGET)
    assert broken.effects == () and any("has no run of loo clip" in note for note in broken.notes)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'dapo'"):
        leaderboard(records(1, 2), "dpao", BUDGET)
