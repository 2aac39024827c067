"""The regression guard sees a lost factor, and the recorded results pass it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.guard import FLOORS, problems

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results.json"


def row(low: float, ours: float = 1.0, theirs: float = 10.0) -> dict:
    return {"anypo": {"peak_gb": ours}, "trl": {"peak_gb": theirs, "times_slower": {"median": 2 * low, "low": low}}}


def test_a_factor_below_its_floor_is_named() -> None:
    floor = FLOORS["step", "trl"]
    assert problems({"step": row(floor)}) == []
    (only,) = problems({"step": row(floor - 0.01)})
    assert "step" in only and "trl" in only


def test_memory_above_its_bound_is_named() -> None:
    (only,) = problems({"step": row(9.0, ours=4.1)})
    assert "memory" in only


def test_failed_and_missing_rows_are_skipped() -> None:
    assert problems({"step": {"anypo": {"failure": "x"}, "trl": {"failure": "not installed"}}}) == []


@pytest.mark.skipif(not RESULTS.exists(), reason="nothing recorded")
def test_the_recorded_results_hold() -> None:
    assert problems(json.loads(RESULTS.read_text())) == []
