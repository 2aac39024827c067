"""Comparisons and searches as Python calls: `compare` and `search`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.compare import run as runner
from anypo.compare.board import Board, leaderboard
from anypo.compare.export import row, write_csv, write_parquet
from anypo.compare.plan import Contender, Settings, cells, contenders, fingerprint, readable, settings
from anypo.compare.search import Search, compositions, halving
from anypo.compare.vary import Axis
from anypo.errors import UserError, unknown
from anypo.files import replace_text, strict
from anypo.run.disk.lock import Lock, now
from anypo.run.record.provenance import describe_code, describe_machine
from anypo.scoring import scorer_of
from anypo.scoring.units import ACCURACY
from anypo.tasks.mixture import is_written, written


@dataclass(frozen=True)
class Comparison:
    """A finished comparison. `board` ranks the contenders (of a search: those of its last rung); `search` holds the rungs."""

    path: Path
    settings: Settings
    tasks: tuple[str, ...]
    contenders: tuple[Contender, ...]
    records: tuple[Mapping[str, Any], ...]
    failures: Mapping[str, str]
    board: Board
    about: Mapping[str, Any]
    search: Search | None = None

    def summary(self) -> dict[str, Any]:
        """Everything but the records, as plain data (what is unknown is None)."""
        out: dict[str, Any] = {
            **self.about,
            "settings": {**asdict(self.settings), "budget": str(self.settings.budget)},
            "tasks": list(self.tasks),
            "base": self.board.base,
            "unit": self.board.unit,
            "start": self.board.start,
            "thresholds": dict(self.board.thresholds),
            "leaderboard": [row(entry, self.board.unit) for entry in self.board.rows],
            "effects": [
                {
                    "factors": list(effect.factors),
                    "p": effect.p,
                    "levels": {" x ".join(k): [v.value, v.low, v.high] for k, v in effect.levels.items()},
                }
                for effect in self.board.effects
            ],
            "notes": list(self.board.notes),
            "failures": dict(self.failures),
            "folder": str(self.path),
            "report": str(self.path / "report.html"),
        }
        if self.search is not None:
            out["search"] = {
                "winner": self.search.winner.label,
                "rungs": [
                    {"budget": str(r.budget), "scores": dict(r.scores), "survivors": list(r.survivors)}
                    for r in self.search.rungs
                ],
            }
        return strict(out)  # type: ignore[no-any-return]


def compare(
    methods: Sequence[str],
    model: str = "tiny",
    tasks: Sequence[str | Mapping[str, Any]] = ("chain_sum",),
    budget: Budget | str = "tokens=200k",
    *,
    seeds: int = 5,
    vary: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    base: str | None = None,
    threshold: float | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    watcher: runner.Watcher | None = None,
    program: Sequence[str] = runner.PROGRAM,
    **shared: Any,
) -> Comparison:
    """Run every method with every seed on every task under the same budget and rank them.

    `methods`: names or algorithm files. `vary`: axes such as ``trust=clip,balanced``, crossed with every method. `changes`:
    fields set for every method that has them. `tasks`: names, or mixtures ``{"mix": [...]}``. `base`: label of the baseline
    (default: grpo if it takes part, else the first).
    `shared`: fields of `Settings`. The folder `out` (default: below comparisons/, named by the conditions) keeps every finished
    cell, so the same call continues an interrupted comparison and a larger one reuses its cells. Raises `UserError` for bad
    input before anything is loaded, and when every cell failed; `KeyboardInterrupt` leaves a folder that can go on.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least 1")
    named = [written(task) for task in tasks]
    amount = Budget.parse(budget) if isinstance(budget, str) else budget
    chosen = contenders(methods, model, [Axis.parse(text) for text in vary], changes, named)
    labels = [contender.label for contender in chosen]
    against = base or next((label for label in labels if label.split()[0] == "grpo"), labels[0])
    if against not in labels:
        raise unknown("method for --base", against, labels)
    conditions = settings(model, named, amount, task_options, **shared)
    check_threshold(threshold, named, conditions)
    path = Path(out) if out is not None else default_folder(model, named, conditions)
    with Workplace(path):
        plan = cells(chosen, named, range(seeds), conditions)
        records, failures = runner.run(plan, path, jobs=jobs, watcher=watcher, program=program)
        if against not in {record["label"] for record in records}:
            raise UserError(f"every run of the baseline {against} failed; choose another --base (see {path / 'cells'})")
        board = leaderboard(records, against, amount, threshold, failures)
        found = Comparison(
            path, conditions, tuple(named), tuple(chosen), tuple(records), failures, board, about(records)
        )
        write(found)
    return found


def search(
    method: str,
    model: str = "tiny",
    tasks: Sequence[str | Mapping[str, Any]] = ("chain_sum",),
    budget: Budget | str = "tokens=1M",
    *,
    count: int = 16,
    seeds: int = 1,
    vary: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    watcher: runner.Watcher | None = None,
    program: Sequence[str] = runner.PROGRAM,
    **shared: Any,
) -> Comparison:
    """Look for a good composition by successive halving over `count` variants of `method`; `budget` is the total of all cells.

    The variants fill the slots of `anypo.compare.search.SEARCHED` with parts drawn at random, or are those of `vary`. Writes
    the winner as ``best.yaml``, an algorithm file that `compare` and `anypo train --config` read. Otherwise as `compare`.
    """
    named = [written(task) for task in tasks]
    amount = Budget.parse(budget) if isinstance(budget, str) else budget
    conditions = settings(model, named, amount, task_options, **shared)
    start = contenders([method], model, (), changes, named)[0]
    chosen = compositions(start, count, [Axis.parse(text) for text in vary])
    path = Path(out) if out is not None else default_folder(model, named, conditions)
    with Workplace(path):
        found = halving(chosen, named, conditions, path, seeds=seeds, jobs=jobs, watcher=watcher, program=program)
        last = [record for record in found.records if record["rung"] == len(found.rungs) - 1]
        labels = list(dict.fromkeys(record["label"] for record in last))
        against = start.label if start.label in labels else labels[0]
        board = leaderboard(last, against, found.rungs[-1].budget, threshold, found.failures)
        result = Comparison(
            path,
            conditions,
            tuple(named),
            tuple(chosen),
            found.records,
            found.failures,
            board,
            about(found.records),
            found,
        )
        replace_text(path / "best.yaml", Algorithm.from_dict(found.winner.algorithm).yaml())
        write(result)
    return result


def check_threshold(threshold: float | None, tasks: Sequence[str], conditions: Settings) -> None:
    """`UserError` for a threshold that no accuracy can have, on a task that is scored by accuracy."""
    if threshold is None or 0 < threshold <= 1:
        return
    from anypo import tasks as room

    for task in tasks:
        if scorer_of(room.load(room.parse(task, conditions.task_options[task]))).unit == ACCURACY:
            raise UserError(f"--threshold {threshold:g}: an accuracy between 0 and 1")


class Workplace:
    """The folder of a comparison, used by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock(path / ".lock")

    def __enter__(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose another folder with --out")
        if (self.path / "config.yaml").exists():
            raise UserError(f"{self.path} holds a run; choose another folder with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()


def write(found: Comparison) -> None:
    """Summary, leaderboard, tables and report into the comparison's folder."""
    from anypo.compare.report import write_report  # late: cells need no page, nor what reads run folders

    replace_text(found.path / "comparison.json", json.dumps(found.summary(), indent=1, ensure_ascii=False) + "\n")
    write_csv(found.board, found.path / "leaderboard.csv")
    write_parquet(found.records, found.path)
    write_report(found)


def about(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Command, code and machine, and what the cells cost together."""
    return {
        "created": now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "code": describe_code(),
        "machine": describe_machine(),
        "cells": len(records),
        "cell_seconds": sum(float(record.get("wall") or 0.0) for record in records),
    }


def default_folder(model: str, tasks: Sequence[str], conditions: Settings) -> Path:
    """A name that depends on the conditions alone: other methods and seeds under them find each other's cells."""
    called = [readable(task).strip("-") if is_written(task) else Path(task).stem for task in tasks]
    name = "-".join([*called, Path(model).name, str(conditions.budget).replace("=", "")])
    return Path("comparisons") / f"{name}-{fingerprint([list(tasks), conditions.plain()])[:6]}"


__all__ = ["Comparison", "compare", "search"]
