"""Running cells: one warm start shared by all, parallel processes, finished cells never run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from anypo.algorithm import Algorithm
from anypo.compare.plan import Cell, Settings, fingerprint
from anypo.engine import device as devices
from anypo.errors import UserError
from anypo.files import replace_text
from anypo.run.disk.shape import Shape
from anypo.run.record.provenance import describe_code
from anypo.run.settings.config import sources
from anypo.run.signals import Stopping
from anypo.scoring.units import ACCURACY
from anypo.tasks.environments import is_environment

PROGRAM = (sys.executable, "-m", "anypo.compare.cell")
"""What runs a cell: called with the specification and the path of the record to write."""


class Watcher:
    """Told how a comparison goes; called from several threads. Every method may be overridden; none needs to be."""

    def begin(self, total: int, done: int) -> None:
        """`done` of `total` cells are already finished."""

    def preparing(self, task: str, done: int, total: int) -> None:
        """The warm start for `task` is at step `done` of `total`."""

    def progress(self, cell: Cell, share: float, score: float, unit: str) -> None:
        """A running cell has spent this share of its budget."""

    def finished(self, cell: Cell, failure: str) -> None:
        """A cell ended; `failure` is empty when it went well."""


def prepare(task: str, settings: Settings, folder: Path, watcher: Watcher | None = None) -> Path:
    """The initial weights all cells of a task start from (the supervised warm start runs once), as a model folder."""
    own = {key: getattr(settings, key) for key in ("model", "sft_steps", "sft_lr", "init_seed")}
    own |= {"chat_args": settings.chat_args} if settings.chat_args and settings.sft_steps else {}
    needs_task = {"task": task, "task_options": settings.task_options[task]} if settings.sft_steps else {}
    path = folder / "init" / fingerprint(own | needs_task)
    if (path / "ready").exists():
        return path
    from anypo import policies, tasks
    from anypo.update.sft import finish, warm_start

    loaded = tasks.load(tasks.parse(task, settings.task_options[task]))
    if is_environment(task):  # the policy is the method's own affair: every cell begins with one of its seed
        return Path()
    if settings.eval_size > loaded.n_heldout:
        raise UserError(
            f"--eval-size {settings.eval_size}: task '{task}' has only {loaded.n_heldout} held-out problems"
        )
    place = devices.resolve(settings.device)
    policy = policies.load(settings.model, seed=settings.init_seed, device=place, chat=settings.chat_args)
    if settings.sft_steps:
        steps = settings.sft_steps
        tell = (lambda done, _: watcher.preparing(task, done, steps)) if watcher else None
        finish(warm_start(policy, loaded, steps, settings.sft_lr, settings.init_seed), tell)
    policy.save(path)
    (path / "ready").touch()  # a model folder without it was cut short
    return path


def run(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    program: Sequence[str] = PROGRAM,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Records of the cells that succeeded, in order, and the last words of those that failed, by label and seed.

    Cells already in `folder` are read, the others run `jobs` at a time (default: one per processor; one alone on an accelerator,
    which they would share), each in a process with one thread. On Ctrl-C, SIGTERM or SIGHUP the running cells are ended and
    `KeyboardInterrupt` or `Killed` goes on; running the same cells again continues. Raises `UserError` when every cell failed.
    """
    watcher = watcher or Watcher()
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    waiting = [cell for cell in cells if recorded(folder, cell) is None]
    watcher.begin(len(cells), len(cells) - len(waiting))
    inits = {task: prepare(task, cells[0].settings, folder, watcher) for task in dict.fromkeys(c.task for c in waiting)}
    code, failures, crew = describe_code(), {}, Crew(program)
    with Stopping(lambda _: None).heard(), ThreadPoolExecutor(jobs or _at_a_time(cells[0].settings)) as pool:
        futures = {pool.submit(crew.work, c, folder, inits[c.task], code, watcher): c for c in waiting}
        try:
            for future in as_completed(futures):
                cell, failure = futures[future], future.result()
                if failure:
                    failures[name(cell)] = failure
                watcher.finished(cell, failure)
        except BaseException:
            crew.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    records = [record for cell in cells if (record := recorded(folder, cell)) is not None]
    if not records:
        first, reason = next(iter(failures.items()))
        raise UserError(f"every cell of the comparison failed; the first was {first}: {reason}")
    return records, failures


class Crew:
    """The processes at work."""

    def __init__(self, program: Sequence[str]) -> None:
        self.program, self.stopped = tuple(program), False
        self.running: set[subprocess.Popen[str]] = set()
        self.lock = threading.Lock()

    def work(self, cell: Cell, folder: Path, init: Path, code: Mapping[str, Any], watcher: Watcher) -> str:
        """Run one cell in a process of its own; '' on success, else the last line it said."""
        out = path(folder, cell)
        spec, log = out.with_suffix(".spec.json"), out.with_suffix(".log")
        plugins = sources(Algorithm.from_dict(cell.contender.algorithm), cell.task, cell.settings.model)
        plan = {"cell": asdict(cell), "init": str(init), "code": code, "plugins": plugins}
        replace_text(spec, json.dumps(plan, indent=1, default=str))
        began = time.monotonic()
        with log.open("w") as said:
            process = self._start([*self.program, str(spec), str(out)], said)
            if process is None:
                return "stopped"
            assert process.stdout is not None
            for line in process.stdout:
                told = _progress(line)
                if told:
                    watcher.progress(cell, told["share"], told["score"], told["unit"])
            code_ = process.wait()
        with self.lock:
            self.running.discard(process)
        if code_ == 0 and out.exists():
            spec.unlink(missing_ok=True)
            log.unlink(missing_ok=True)
            return ""
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("anypo: ") if lines else "it said nothing"
        return f"{last} (exit {code_} after {time.monotonic() - began:.0f} s; see {log})"

    def _start(self, command: Sequence[str], said: Any) -> subprocess.Popen[str] | None:
        """A process in a session of its own, so that Ctrl-C reaches only us; one whose reader died ends at its next word."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment.setdefault("HF_HUB_OFFLINE", "1")
        with self.lock:
            if self.stopped:
                return None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=environment,
                start_new_session=True,
            )
            self.running.add(process)
        return process

    def stop(self) -> None:
        """End every running process and start no other."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # records are written in one step: nothing to tidy up


def _at_a_time(settings: Settings) -> int:
    return (os.cpu_count() or 1) if devices.resolve(settings.device).type == "cpu" else 1


def path(folder: Path, cell: Cell) -> Path:
    """Where the record of a cell is kept."""
    return folder / "cells" / f"{cell.key}.json"


def recorded(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a finished cell; None where there is none, or one that is damaged: such a cell is run again."""
    try:
        record = json.loads(path(folder, cell).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return None if not isinstance(record, dict) or Recorded.problem(record) else record


class Recorded(Shape):
    """What `anypo.compare.cell.measure` writes."""

    label: str
    task: str
    seed: int
    factors: dict[str, Any]
    curve: Annotated[list[dict[str, float]], Field(min_length=1)]
    final: dict[str, float]
    spent: dict[str, float]
    steps: int
    history: dict[str, list[float]]
    unit: str = ACCURACY
    code: dict[str, Any] = {}
    device: str = "cpu"
    wall: float | None = None
    k: int = 1

    @model_validator(mode="after")
    def _was_scored(self) -> Self:
        if any(self.unit not in place for place in (self.final, *self.curve)):
            raise ValueError(f"there is no {self.unit}")
        return self


def name(cell: Cell) -> str:
    """How a cell is called in messages."""
    return f"{cell.contender.label} on {cell.task}, seed {cell.seed}"


def _progress(line: str) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and {"share", "score", "unit"} <= told.keys() else None
