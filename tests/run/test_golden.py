"""The first steps of every golden run (scripts/golden.py) give the stored numbers. When a change is meant to move them, or a
system is new: `python scripts/golden.py store [--only NAME]`."""

from __future__ import annotations

import json
import math

import golden
import golden_beds
import pytest

from anypo.systems import SYSTEMS

STORED = json.loads(golden.STORED.read_text())
RUNS = golden_beds.runs()
FROZEN = {name for name in RUNS if name in SYSTEMS and SYSTEMS[name].algorithm().update.part == "frozen"}
"""Methods that learn in words: their rewards say what they do."""
AGAIN = "if that is meant, `python scripts/golden.py store` writes new ones"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_stored_numbers(name: str) -> None:
    assert name in STORED, f"no numbers are stored for {name}; `python scripts/golden.py store --only {name}` does it"
    found = golden.headlines(golden.run(name, golden.STORED_STEPS)["metrics"])
    assert found.keys() == STORED[name].keys(), AGAIN
    for metric, values in STORED[name].items():
        for step, (wanted, value) in enumerate(zip(values, found[metric], strict=True), 1):
            same = wanted == value or (None not in (wanted, value) and close(wanted, value, step))
            assert same, f"step {step}: {metric} is {value}, stored is {wanted}; {AGAIN}"


def close(a: float, b: float, step: int) -> bool:
    """As near as processors that round otherwise come: Adam makes whole steps of rounding where a gradient is zero, so what they
    differ by grows with the steps."""
    return math.isclose(a, b, rel_tol=1e-3 * step, abs_tol=1e-5)


def test_nothing_is_stored_for_runs_that_are_gone() -> None:
    assert STORED.keys() <= RUNS.keys(), AGAIN


def test_every_run_learns_something() -> None:
    """Numbers of weights that never move would say nothing about an update."""
    still = {name for name, metrics in STORED.items() if not metrics["weights/moved"][-1] > 0}
    assert still == FROZEN


def test_a_difference_in_the_last_bit_is_found_and_named() -> None:
    value = 0.1
    old = {"metrics": {"reward/mean": [value.hex()] * golden.STEPS, "weights": ["a"] * golden.STEPS}}
    new = json.loads(json.dumps(old))
    assert golden.difference(old, new) == ""
    new["metrics"]["extra"] = [value.hex()] * golden.STEPS
    assert golden.difference(old, new) == "" and golden.gained(old, new) == ["extra"]
    new["metrics"]["weights"][2] = "b"
    new["metrics"]["reward/mean"][2] = math.nextafter(value, 1.0).hex()
    said = golden.difference(old, new)
    assert said == "DIFFERENT at step 3: reward/mean 0.1 | 0.10000000000000002 (and 1 more)"
    assert golden.difference({"error": "x"}, {"error": "x"}) == "cannot run: x | x"
    assert golden.difference(old, None) == "missing in the second record"
    assert golden.difference(old, {"metrics": {"weights": ["a"] * golden.STEPS}}).endswith("reward/mean 0.1 | absent")
