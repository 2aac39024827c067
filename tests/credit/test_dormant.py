"""What credit parts say before a run in which they cannot act, and the setting that lets them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from anypo.outlook import Outlook
from anypo.systems import find

ONE = SimpleNamespace(name="one", weights={"correct": 1.0}, outcome="correct", turns=1)
TALK = SimpleNamespace(name="talk", weights={"correct": 1.0}, outcome="correct")
TWO = SimpleNamespace(name="two", weights={"correct": 1.0, "format": 0.1}, outcome="correct", turns=1)


def said(name: str, task, steps: int = 20, **changes) -> str:
    idle = find(name).algorithm().set(changes).sleepers(Outlook(steps, 100, task))
    return " ".join(
        sentence for sentence in idle if not sentence.startswith("objective.trust")
    )  # of one update a batch


@pytest.mark.parametrize(
    ("name", "asleep", "task", "changes", "awake", "better"),
    [
        ("gdpo", "pays correct alone", ONE, {}, TWO, {}),
        ("gdpo", "pays correct alone", ONE, {}, ONE, {"filter.signals": [{"part": "equation_check"}]}),
        ("otc-po", "no tool is ever called", ONE, {}, TALK, {}),
        ("otc-po", "set generate.turns=4", TALK, {"generate.turns": 1}, TALK, {}),
        ("xrpo", "set control.samples=8", ONE, {"control.samples": 4}, ONE, {}),
        (
            "dapo",
            "set limit=16 and buffer=3",
            ONE,
            {"generate.max_new": 16},
            ONE,
            {"generate.max_new": 16, "credit.shaping.0.limit": 16, "credit.shaping.0.buffer": 3},
        ),
        ("poise", "set control.samples=2", ONE, {"control.samples": 1}, ONE, {}),
        (
            "poise",
            "set warmup=38",
            ONE,
            {"control.prompts": 2, "credit.centre.warmup": 100},
            ONE,
            {"control.prompts": 2, "credit.centre.warmup": 38},
        ),
        ("fapo", "equation_check", ONE, {"filter.signals": []}, ONE, {}),
    ],
)
def test_it_says_so_and_what_would_do(name, asleep, task, changes, awake, better) -> None:
    assert asleep in said(name, task, **changes)
    assert said(name, awake, **better) == ""


def test_nothing_is_said_before_the_task_is_known() -> None:
    for name in ("gdpo", "otc-po", "fapo"):
        assert said(name, None) == ""
