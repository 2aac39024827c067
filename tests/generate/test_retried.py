"""Attempts that are looked back on: what the reader sees, which reports count, what is trained of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from talking import ByRule, Chain

from anypo import policies
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import Group, Tokens, Trajectory
from anypo.generate import Retried
from anypo.generate.base import World
from anypo.generate.repaired.reports import Report, read_report
from anypo.generate.repaired.retried import Attempt
from anypo.run.record.metrics import describe

SAID = {"trajectory_summary": "s", "root_cause_analysis": "c"}


def report(**more: Any) -> str:
    return json.dumps({**SAID, "trajectory_outcome": "failure", "improvement_suggestion": "say a", **more})


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (report(retry_from_step=1), (False, "say a", 1)),
        ("```json\n" + report(retry_from_step="2") + "\n```", (False, "say a", 2)),
        (report(retry_from_step=0, trajectory_outcome="success_but_inefficient"), (False, "say a", 0)),
        (report(trajectory_outcome="success"), (True, "", 0)),
        (report(retry_from_step=3), None),
        (report(retry_from_step=-1), None),
        (report(retry_from_step=True), None),
        (report(retry_from_step="soon"), None),
        (report(retry_from_step=None), None),
        (report(retry_from_step=1, improvement_suggestion=None), None),
        (report(retry_from_step=1, trajectory_outcome="lost"), None),
        (json.dumps({"trajectory_outcome": "success"}), None),
        ("[1, 2]", None),
        ("{broken", None),
        ("", None),
        ("} {", None),
    ],
)
def test_which_reports_about_three_turns_count(reply: str, found: Any) -> None:
    seen = read_report(reply, 3)
    assert (None if seen is None else (seen.perfect, seen.suggestion, seen.step)) == found
    assert seen is None or json.loads(seen.text)["trajectory_summary"] == "s"


def rolled(rule: Any, context: int = 4096, **fields: Any) -> tuple[list[Group], list[str], Context, Any]:
    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48, "context": context}, seed=0)
    part = Retried(**{"max_new": 8, "turns": 4, "reply": 200, **fields})
    now = Context(0, 10, 7, Memory(part))
    sampler = ByRule(policy, rule)
    return part.rollout([Ask(0, 2)], World(Chain(), policy, sampler), now), sampler.read, now, policy


def helped(text: str) -> str:
    """Says b until it is told to say a; its reports ask for a second try from turn 2."""
    if "Here is an attempt" in text:
        return report(retry_from_step=2)
    return "a" if "say a" in text else "b"


def test_the_reader_sees_the_whole_episode_and_the_retry_begins_where_it_says() -> None:
    groups, read, context, policy = rolled(helped)
    asked = next(text for text in read if "Here is an attempt" in text)
    assert "Task:\na\n" in asked and "Step 0: b\nSeen: " in asked and "Step 3: b" in asked and "earned 0." in asked
    explored, spoken, guided = [g for g in groups if not g.aside]
    first, second = explored.trajectories
    assert first.text == "bbbb" and second.text == "bbaa" and second.reward == 1 and second.extra["pivot"] == 2
    for t in (first, second):
        assert t.weight.tolist() == (t.turn >= 2).astype(float).tolist(), "the shared turns count in neither"
    begin = second.content.tokens[: second.content.actions[0]]
    np.testing.assert_array_equal(begin, first.content.tokens[: first.content.actions[0]])
    assert "say a" in policy.decode(second.content.shown) and "say a" not in policy.decode(second.content.tokens)
    assert read[-1].startswith(policy.decode(second.content.shown)), "every turn of the retry has the report in view"
    assert spoken.trajectories[0].reward == 1 and json.loads(spoken.trajectories[0].text)["retry_from_step"] == 2
    (seen,) = guided.trajectories
    assert (
        seen.reward == 1 and "say a" in policy.decode(seen.content.tokens) and seen.weight.sum() == second.weight.sum()
    )
    assert not context.metrics["generate/reports_read"] < 1 and context.metrics["generate/retried_better"] == 1


def test_what_a_report_is_paid_is_not_the_policys_reward() -> None:
    """The step's reward is that of first attempts: neither reports (paid 1 where they were worth it) nor second attempts."""
    groups, _, context, _ = rolled(helped)
    assert [t.guidance for g in groups for t in g.trajectories] == ["", "retry", "report", "guided_retry"]
    describe(groups, context, Chain.outcome, drawn=0.0)
    first = groups[0].trajectories[0]
    assert context.metrics["reward/mean"] == first.reward < 1 and "reward/reflection" not in context.metrics
    assert {name: context.metrics[f"reward/{name}"] for name in first.rewards} == dict(first.rewards)


def test_what_is_not_better_gives_no_further_groups() -> None:
    stubborn = lambda text: report(retry_from_step=1) if "Here is an attempt" in text else "b"
    groups, *_ = rolled(stubborn)
    assert [g.aside for g in groups] == [False, True] and len(groups[0].trajectories) == 2
    groups, *_ = rolled(helped, auxiliary=False)
    assert [g.aside for g in groups] == [False, True], "the report is counted, and not trained on"
    groups, *_ = rolled(helped, pivotal=False)
    assert all(t.weight is None for t in groups[0].trajectories)


def test_what_is_better() -> None:
    """A success that was none before, or one of fewer turns; neither a higher failure, a lower success nor a longer one."""

    def better(first: tuple[float, int], second: tuple[float, int] | None) -> bool:
        made = lambda reward, turns: Trajectory(
            0, Tokens(np.zeros(turns, np.int32), np.ones(turns, np.int8)), np.zeros(turns), np.zeros(turns, np.int64),
            reward=reward, turn=np.arange(turns),
        )  # fmt: skip
        again = None if second is None else made(*second)
        return Attempt(0, 0, made(*first), Chain().train(0), second=again).better

    assert better((0.9, 2), (1.0, 4)) and better((1.0, 4), (1.0, 3)) and better((1.5, 4), (1.0, 3))
    assert not better((0.0, 4), (0.9, 2)) and not better((1.0, 3), (1.0, 3)) and not better((1.0, 3), (1.0, 4))
    assert not better((0.0, 4), None)


def test_a_report_that_calls_a_success_one_is_worth_it_and_a_wrong_one_is_not() -> None:
    content = lambda said: lambda text: report(trajectory_outcome="success") if "Here is an attempt" in text else said
    groups, *_ = rolled(content("aa"), turns=4)
    assert groups[0].trajectories[0].reward >= 1 and len(groups) == 2 and not groups[1].aside
    groups, *_ = rolled(content("b"))
    assert [g.aside for g in groups] == [False, True] and groups[0].trajectories[0].weight is None


def test_from_the_first_turn_everything_counts() -> None:
    again = lambda text: report(retry_from_step=0) if "Here is an attempt" in text else "a" if "say a" in text else "b"
    groups, *_ = rolled(again)
    first, second = groups[0].trajectories
    assert second.text == "aaaa" and first.weight is None and second.weight is None and second.parent == -1


def test_without_room_for_a_report_nothing_is_asked() -> None:
    for fields in ({"reply": 5000}, {"context": 400}):  # no room for a reply; none for the question
        groups, read, *_ = rolled(helped, **fields)
        assert len(groups) == 1 and not any("Here is an attempt" in text for text in read)


def test_no_asks_and_a_single_turn() -> None:
    part = Retried(turns=1)
    assert part.rollout([], World(Chain(), None, None), Context(0, 1, 0, Memory(part))) == []  # type: ignore[arg-type]
    assert "one turn" in (part.dormant(None, None) or "")  # type: ignore[arg-type]
    assert Report(True, "").step == 0 and "model:reader:ask" in Retried(role="reader").required()
