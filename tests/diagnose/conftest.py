"""One small real run for the tests that need weights and a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anypo.run.record.observer import Observer
from anypo.run.session import train

sys.path.insert(
    0, str(Path(__file__).parents[2])
)  # benchmarks/planted.py makes the runs that the detectors are tried on

SETTINGS = {
    "task": "chain_sum",
    "task_options": {"style": "plain", "min_terms": 2, "max_terms": 2, "max_digits": 1},
    "steps": 11,
    "sft_steps": 0,
    "eval_size": 8,
    "save_every": 1,
    "keep": 20,
}
CHANGES = {
    "control.prompts": 3,
    "control.samples": 4,
    "generate.max_new": 4,
    "objective.regularise": [{"part": "entropy", "coefficient": 0.01}],  # a gradient although every reward is 0
}


class Notes(Observer):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run folder of the tiny model that never succeeds (it had no warm start), and what was printed while it trained."""
    notes = Notes()
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train("grpo", "tiny", set=CHANGES, out=out, observer=notes, **SETTINGS)
    return out, notes.lines
