"""A sample of rollouts and answers small enough to carry inside a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from anypo.data.records import ACTION, OBSERVATION
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder

STEPS, GROUPS, MEMBERS = 9, 4, 8
"""Most steps, groups of a step and rollouts of a group that are shown."""

TOKENS, LONGEST = 25_000, 600
"""Most tokens in the whole sample, and in one rollout (the middle of a longer one is left out)."""

ANSWERS, CHARACTERS = 300, 600
"""Most held-out problems shown, and characters of each text."""


def rollouts(folder: RunFolder) -> list[dict[str, Any]]:
    """Rollouts of evenly spaced steps, first and last included; from each step whole groups, most spread in reward first."""
    out: list[dict[str, Any]] = []
    steps = spaced(folder.rollout_steps(), STEPS)
    for step in steps:
        with suppress(UserError):  # one damaged file must not cost the report
            out += of_step(folder, step, TOKENS // len(steps))
    return out


def of_step(folder: RunFolder, step: int, budget: int, groups: int = GROUPS) -> list[dict[str, Any]]:
    """At most `groups` whole groups of a step, most spread in reward first: `budget` tokens, or a single larger group.

    Raises `UserError` when there are none of that step or their file is damaged.
    """
    out: list[dict[str, Any]] = []
    rows = folder.rollouts(step).to_pylist(maps_as_pydicts="lossy")
    for group in _groups(rows)[:groups]:
        chosen = [_rollout(row) for row in spaced(sorted(group, key=lambda r: -_real(r["reward"])), MEMBERS)]
        size = sum(len(rollout["pieces"]) for rollout in chosen)
        if size > budget and out:
            break
        budget -= size
        out += chosen
    return out


def spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The groups of a step, those whose rewards differ most first."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group_id"], []).append(row)
    return sorted(groups.values(), key=lambda group: (-_spread(group), group[0]["group_id"]))


def _spread(group: list[dict[str, Any]]) -> float:
    rewards = [_real(row["reward"]) for row in group]
    return max(rewards) - min(rewards)


def _real(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _rollout(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("step", "sample", "answer", "finish", "guidance", "failed", "length", "parent", "fork")
    return {
        **{key: row[key] for key in keys},
        "group": row["group_id"],
        "problem": clip(row["problem"]),
        "text": clip(row["text"]),
        "reward": _rounded(row["reward"], 4),
        "rewards": {name: _rounded(value, 4) for name, value in (row["rewards"] or {}).items()},
        "advantage": _rounded(row["advantage"], 4),
        **_tokens(row),
    }


def _tokens(row: dict[str, Any]) -> dict[str, Any]:
    """Text, role, log-probability, entropy and advantage of every token after the prompt; empty where there are no tokens."""
    empty: dict[str, Any] = {"pieces": [], "given": [], "logp": [], "entropy": [], "advantages": [], "cut": [0, 0]}
    if not row["pieces"]:
        return empty
    decisions = [i for i, role in enumerate(row["roles"]) if role == ACTION]
    if not decisions:
        return empty
    nth = {place: number for number, place in enumerate(decisions)}
    shown = [i for i in range(decisions[0], len(row["roles"])) if row["roles"][i] in (ACTION, OBSERVATION)]
    cut = [0, 0]
    if len(shown) > LONGEST:
        tail = LONGEST // 4
        cut = [LONGEST - tail, len(shown) - LONGEST]
        shown = shown[: LONGEST - tail] + shown[-tail:]

    def column(name: str, digits: int) -> list[float | None]:
        values = row[name]
        return [_rounded(values[nth[i]], digits) if i in nth else None for i in shown] if values else []

    return {
        "pieces": [row["pieces"][i] for i in shown],
        "given": [number for number, i in enumerate(shown) if i not in nth],
        "logp": column("logp", 3),
        "entropy": column("entropy", 3),
        "advantages": column("advantages", 3),
        "cut": cut,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return round(value, digits) if value is not None and math.isfinite(value) else None


def clip(text: str | None) -> str:
    """The text, its middle left out when it is long."""
    text = text or ""
    if len(text) <= CHARACTERS:
        return text
    half = CHARACTERS // 2
    return f"{text[:half]} [… {len(text) - CHARACTERS} characters …] {text[-half:]}"


# -- held-out answers --------------------------------------------------------------------------------------------------------


def answers(folder: RunFolder, first: str, last: str, outcome: str) -> dict[str, Any] | None:
    """Held-out problems answered in the evaluations `first` and `last`, side by side, and how many changed which way.

    Problems are matched by place (both evaluations ask the same ones); of several samples the first is shown. None when the
    answers of either were not kept.
    """
    try:
        before, after = folder.answers(first), folder.answers(last)
    except UserError:
        return None
    if before is None or after is None:
        return None
    pairs = [(a, b) for a, b in zip(_firsts(before), _firsts(after)) if a["prompt"] == b["prompt"]]
    rows: list[dict[str, Any]] = [
        {
            "problem": clip(a["problem"]),
            "answer": clip(a["answer"]),
            "before": clip(a["text"]),
            "after": clip(b["text"]),
            "right": [_right(a, outcome), _right(b, outcome)],
        }
        for a, b in pairs
    ]
    kinds = {
        "fixed": [False, True],
        "broken": [True, False],
        "still wrong": [False, False],
        "still right": [True, True],
    }
    counts = {kind: sum(row["right"] == flags for row in rows) for kind, flags in kinds.items()}
    rows.sort(key=lambda row: list(kinds.values()).index(row["right"]))
    return {"rows": spaced(rows, ANSWERS), "counts": counts, "total": len(rows)}


def _firsts(table: pa.Table) -> list[dict[str, Any]]:
    wanted = table.select(["group_id", "prompt", "problem", "answer", "text", "reward", "rewards"])
    seen: dict[int, dict[str, Any]] = {}
    for row in wanted.to_pylist(maps_as_pydicts="lossy"):
        seen.setdefault(row["group_id"], row)
    return list(seen.values())


def _right(row: dict[str, Any], outcome: str) -> bool:
    value = (row["rewards"] or {}).get(outcome, row["reward"] if not outcome else 0.0)
    return _real(value) >= 1 - 1e-9
