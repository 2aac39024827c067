"""Rollouts and groups as plain data, for whatever keeps them from step to step and into a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from anypo.data.content import Media
from anypo.data.kept import Kept
from anypo.data.records import STATES, Group, Steps, Tokens, Trajectory


def plain(trajectory: Trajectory) -> dict[str, Any]:
    """A rollout as arrays, numbers and plain containers (checkpoint safe)."""
    saved = {field.name: getattr(trajectory, field.name) for field in dataclasses.fields(trajectory)}
    content = saved.pop("content")
    described = {"kind": type(content).__name__, **vars(content)}
    if described.get("media"):
        described["media"] = [piece.plain() for piece in described["media"]]
    return saved | {
        "rewards": dict(trajectory.rewards),
        "weights": dict(trajectory.weights),
        "extra": {name: value for name, value in trajectory.extra.items() if name != STATES},
        "keys": dict(trajectory.keys),
        "content": described,
        "kept": trajectory.kept.plain() if trajectory.kept is not None else None,
    }


def restore(saved: Mapping[str, Any]) -> Trajectory:
    """The rollout that `plain` described."""
    fields = dict(saved)
    content = dict(fields.pop("content"))
    kind = Tokens if content.pop("kind") == "Tokens" else Steps
    if content.get("media"):
        content["media"] = tuple(Media(**piece) for piece in content["media"])
    if fields.get("kept") is not None:
        fields["kept"] = Kept(**fields["kept"])
    return Trajectory(content=kind(**content), **fields)


def store(group: Group) -> dict[str, Any]:
    """A group as plain data (checkpoint safe; the problem itself is left out: its index finds it again)."""
    rollouts = [plain(t) for t in group.trajectories]
    return {
        "prompt": group.prompt,
        "step": group.step,
        "index": group.index,
        "visit": group.visit,
        "trajectories": rollouts,
    }


def revive(saved: dict[str, Any]) -> Group:
    """The group that `store` described."""
    rollouts = tuple(restore(t) for t in saved["trajectories"])
    return Group(saved["prompt"], rollouts, step=saved["step"], index=saved["index"], visit=saved["visit"])
