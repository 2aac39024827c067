"""What a diagnosis may look at: the metrics, a sample of the rollouts, the evaluations and the composition of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.data.records import ACTION, Group, Tokens
from anypo.errors import UserError
from anypo.report.sample import spaced
from anypo.run.beside import last_stage
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.rollouts import problem_text
from anypo.run.disk.trust import recall
from anypo.tasks.environments import is_environment

STEPS = 40
"""Most steps whose rollouts are read: evenly spaced, first and last included."""

COLUMNS = (
    "step", "group_id", "prompt", "sample", "problem", "answer", "text", "reward", "rewards", "advantage", "trained",
    "length", "finish", "failed", "guidance", "tokens", "roles", "advantages",
)  # fmt: skip
"""The columns of `anypo.run.disk.rollouts.SCHEMA` that detectors read."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """A metric over the steps at which it was recorded and finite, both [n]."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Evidence:
    """`rollouts`: one list of rows a step (in step order, possibly a sample of the steps). `visits`: problem of every group of
    the whole run, or None when unknown. `answers`: rows of the evaluations by label. `stage`: the place of the stage in its recipe,
    which is all that is looked at in a run of several: `algorithm` and `metrics` are its own."""

    metrics: Sequence[Mapping[str, Any]] = ()
    rollouts: Sequence[Sequence[Row]] = ()
    evaluations: Sequence[Mapping[str, Any]] = ()
    algorithm: Algorithm | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    visits: Sequence[int] | None = None
    run: str = "RUN"
    stage: int = 0

    @property
    def acts(self) -> bool:
        """Whether the policy takes actions in an environment; its rollouts are then stretches of episodes, without words."""
        return is_environment(str(self.config.get("task", "")))

    def series(self, name: str) -> Series | None:
        """The metric `name`, or None when it was never recorded as a finite number."""
        found = [
            (entry.get("step", number), entry[name])
            for number, entry in enumerate(self.metrics, 1)
            if isinstance(entry.get(name), (int, float)) and math.isfinite(entry[name])
        ]
        return Series(*np.array(found, dtype=np.float64).T) if found else None

    @property
    def outcome(self) -> str:
        """The reward component that says right or wrong ('' when unknown: the scalar reward is taken)."""
        return str(self.task.get("outcome", ""))

    def right(self, row: Row) -> bool:
        """The rollout reached the outcome (or, where that is unknown, the best reward seen)."""
        return self.score(row) >= self.best - 1e-9

    def score(self, row: Row) -> float:
        """The outcome component of a rollout, else its reward; 0 where it is not finite."""
        rewards = row["rewards"] or {}
        value = rewards.get(self.outcome, row["reward"])
        return float(value) if value is not None and math.isfinite(value) else 0.0

    @cached_property
    def best(self) -> float:
        """The outcome of a right answer: 1, or the best seen where no outcome component is known."""
        scores = [self.score(row) for rows in self.rollouts for row in rows]
        return 1.0 if self.outcome else max(scores, default=1.0)

    def late(self) -> list[Row]:
        """Rows of the last third of the steps with rollouts (at least one step)."""
        count = len(self.rollouts)
        return [row for rows in self.rollouts[count - max(1, count // 3) :] for row in rows] if count else []

    def progress(self) -> tuple[float, float] | None:
        """Mean outcome (training, sampled) in the first and the last third, or None when it was not recorded."""
        for name in ("accuracy/train", f"reward/{self.outcome}", "reward/mean"):
            series = self.series(name)
            if series is not None and len(series) >= 2:
                third = max(1, len(series) // 3)
                return float(series.values[:third].mean()), float(series.values[-third:].mean())
        return None

    def solved(self, share: float = 0.9) -> bool:
        """The outcome is near its best at the end of the run: what falls to zero then falls because the task is done."""
        found = self.progress()
        return found is not None and found[1] >= share * self.best


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by group of their step, in the order met."""
    out: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        out.setdefault((row["step"], row["group_id"]), []).append(row)
    return list(out.values())


def read(path: Path | str) -> Evidence:
    """The evidence in a run folder (running, finished or killed). Raises `UserError` when there is none or it is damaged."""
    folder = RunFolder.read(path)
    config, manifest = folder.config(), folder.manifest()
    recall(config)
    stage, method, metrics = _last_stage(config, folder.metrics())
    first = metrics[0].get("step", 0) if metrics else 0
    steps = [step for step in folder.rollout_steps() if step >= first]
    tables = [folder.rollouts(step) for step in spaced(steps, STEPS)]
    drawn = "select distinct step, group_id, problem_index as drawn from rollouts where problem_index is not null"
    visits = folder.sql(f"{drawn} and step >= {first}").column("drawn").to_pylist()
    try:
        algorithm = Algorithm.from_dict(method) if method else None
    except UserError:  # written by another version: what was measured can be judged all the same, without levers
        algorithm = None
    return Evidence(
        metrics,
        [table.select(COLUMNS).to_pylist(maps_as_pydicts="lossy") for table in tables],
        folder.evaluations(),
        algorithm,
        config,
        manifest.get("task") or {},
        visits,
        str(path),
        stage,
    )


def _last_stage(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> tuple[int, Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Of a recipe the stage that the run came to: its place, its algorithm and its own metrics; of any other run all there is."""
    stages = (config.get("recipe") or {}).get("stages")
    if not stages:
        return 0, config.get("algorithm") or {}, metrics
    own = last_stage(metrics)
    names = [stage.get("name") for stage in stages]
    place = names.index(own[-1]["stage"]) if own and own[-1].get("stage") in names else 0
    return place, stages[place].get("algorithm") or {}, own


def rows(step: int, found: Sequence[Group], most: int = 32, characters: int = 500) -> list[Row]:
    """Groups in memory as the rows `read` gives, without token-level columns: for live warnings, which must cost nothing, so
    of at most `most` groups and the beginning of each text."""
    return [
        {
            **dict.fromkeys(COLUMNS),
            "step": step,
            "group_id": number,
            "prompt": trajectory.prompt,
            "sample": trajectory.sample,
            "problem": problem_text(group.problem),
            "answer": str(getattr(group.problem, "answer", "") or ""),
            "text": trajectory.text[:characters],
            "reward": float(trajectory.reward),
            "rewards": dict(trajectory.rewards),
            "length": len(trajectory),
            "finish": trajectory.finish,
            "failed": str(trajectory.extra.get("failed", "") or ""),
            "guidance": trajectory.guidance,
        }
        for number, group in enumerate(spaced(found, most))
        for trajectory in group.trajectories
        if isinstance(trajectory.content, Tokens)
    ]


def decided(row: Row) -> list[int]:
    """The tokens of a row that the policy decided."""
    return [token for token, role in zip(row["tokens"] or (), row["roles"] or ()) if role == ACTION]
