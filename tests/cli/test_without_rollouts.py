"""sft and dpo from the command line: trained, scored, reported, and resumed to the same end as an uninterrupted run."""

from __future__ import annotations

import json
import math

import pytest
from killing import killed_run, results

ROWS = {
    "sft": [{"prompt": f"{a}+{b}=", "answer": str(a + b), "worked": str(a + b)} for a in range(5) for b in range(5)],
    "dpo": [
        {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a + b + 1)} for a in range(5) for b in range(5)
    ],
}


@pytest.mark.parametrize("system, unit, more", [
    ("sft", "accuracy", ("--task-set", "solution=worked")), ("dpo", "pairs ranked right", ())
])  # fmt: skip
def test_a_run_without_rollouts_does_all_that_a_run_does(anypo, tmp_path, system, unit, more):
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, ROWS[system])))
    words = ("train", "--system", system, "--model", "tiny", "--task", "data.jsonl", *more, "--sft-steps", "0",
             "--set", "replay.examples=4", "--set", "update.schedule=constant", "--eval-size", "4")  # fmt: skip
    done = anypo(*words, "--steps", "40", "--save-every", "4", "--out", "whole", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["after"]["unit"] == unit
    killed_run(tmp_path / "killed", (*words, "--steps", "40", "--save-every", "4"), 6)
    assert anypo("resume", "killed").code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    whole = results(tmp_path / "whole")[0]
    assert len(whole) == 40
    assert not [
        name for row in whole for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    for command in (("report", "whole"), ("diagnose", "whole"), ("rollouts", "whole")):
        assert anypo(*command).code == 0, command
