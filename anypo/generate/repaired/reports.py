"""What is said about an attempt before it is tried again: how it went, what to do otherwise, and from which turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from anypo.data.content import parted
from anypo.data.records import ACTION, OBSERVATION, Tokens, Trajectory, prompt_id
from anypo.tasks.base import Problem

REFLECTION = """Here is an attempt at a task, turn by turn.

Task:
{question}

{log}

The attempt earned {reward}.

Say what went wrong, why, and from which turn it should be tried again. Answer with one JSON object:
{"trajectory_summary": what was done and how it ended, "root_cause_analysis": why, "trajectory_outcome": "success",
"success_but_inefficient" or "failure", "improvement_suggestion": what to do otherwise (null after a success), "retry_from_step": the
number of the turn, from 0, at which the cause first shows (null after a success)}"""

GUIDANCE = "Analysis of an earlier attempt, and what to do otherwise:\n{report}"


@dataclass(frozen=True)
class Report:
    """A valid report: whether it calls the attempt a success, else what it suggests and the turn `step` to try again from; `text`, the
    JSON object as it was written."""

    perfect: bool
    text: str
    suggestion: str = ""
    step: int = 0


def read_report(reply: str, turns: int) -> Report | None:
    """The report in a reply about an attempt of so many turns: what stands between the first { and the last }, if it is a JSON object
    with a summary, an analysis and an outcome, and unless that is ``success``, a suggestion and a turn from 0 to `turns` - 1
    (validation of R3L, shiweijiezero/R3L d503f6c). None where it is not."""
    begin, end = reply.find("{"), reply.rfind("}")
    try:
        said = json.loads(reply[begin : end + 1], strict=False) if 0 <= begin < end else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not {"trajectory_summary", "root_cause_analysis"} <= said.keys():
        return None
    text, outcome = reply[begin : end + 1], said.get("trajectory_outcome")
    if outcome == "success":
        return Report(True, text)
    suggestion, step = said.get("improvement_suggestion"), _whole(said.get("retry_from_step"))
    if outcome not in ("success_but_inefficient", "failure") or suggestion is None or step is None:
        return None
    return Report(False, text, str(suggestion), step) if 0 <= step < turns else None


def _whole(value: Any) -> int | None:
    """A whole number, also one that is written as a text."""
    try:
        return None if isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def asked(problem: Problem, trajectory: Trajectory, policy: Any, template: str) -> Problem:
    """The question about an attempt, as a problem."""
    before = parted(problem.messages)[0] or problem.messages
    told = {
        "{question}": "\n\n".join(str(m["content"]) for m in before if m["role"] != "system"),
        "{log}": log(trajectory, policy),
        "{reward}": f"{trajectory.reward:g}",
    }
    text = filled(template, told)
    return Problem(prompt_id(text), ({"role": "user", "content": text},))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its marks replaced, once: what is put in is not read again."""
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match.group()], template)


def log(trajectory: Trajectory, policy: Any) -> str:
    """What was said and seen, turn by turn, numbered from 0."""
    content = trajectory.content
    assert isinstance(content, Tokens)
    edges = [0, *(np.flatnonzero(np.diff(content.roles)) + 1).tolist(), len(content.roles)]
    lines, turn = [], 0
    for begin, end in pairwise(edges):
        role, text = int(content.roles[begin]) if end > begin else -1, policy.decode(content.tokens[begin:end]).strip()
        if role == ACTION:
            for said in _turns(trajectory, begin, end, policy):
                lines.append(f"Step {turn}: {said}")
                turn += 1
        elif role == OBSERVATION and text:
            lines.append(f"Seen: {text}")
    return "\n".join(lines)


def _turns(trajectory: Trajectory, begin: int, end: int, policy: Any) -> list[str]:
    """The texts of the turns whose tokens lie next to each other between two places."""
    content = trajectory.content
    assert isinstance(content, Tokens)
    at = content.actions
    inside = (at >= begin) & (at < end)
    turn = np.zeros(len(at), dtype=np.int64) if trajectory.turn is None else trajectory.turn
    return [policy.decode(content.tokens[at[inside & (turn == n)]]).strip() for n in np.unique(turn[inside])]


__all__ = ["GUIDANCE", "REFLECTION", "Report", "asked", "filled", "log", "read_report"]
