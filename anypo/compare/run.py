"""Running a comparison: one warm start shared by all, cells in parallel processes, finished cells never run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anypo.compare.plan import Cell, Settings
from anypo.errors import UserError

Progress = Callable[[int, int, str], None]


def prepare(settings: Settings, folder: Path) -> Path:
    """The initial weights every cell starts from (the supervised warm start is run once), as a model folder."""
    path = folder / "init"
    if (path / "config.json").exists():
        return path
    from anypo import policies, tasks
    from anypo.update.sft import warm_start

    policy = policies.load(settings.model, seed=settings.init_seed)
    if settings.sft_steps:
        task = tasks.load(tasks.parse(settings.task, dict(settings.task_options)))
        warm_start(policy, task, steps=settings.sft_steps, lr=settings.sft_lr, seed=settings.init_seed)
    policy.save(path)
    return path


def run(
    cells: Sequence[Cell], folder: Path, *, jobs: int | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Records of all cells, in order. Cells already in `folder` are read, the others run `jobs` at a time (default: one per
    processor), each in a process with one thread. A cell that fails is reported and left out; `UserError` when all fail."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    init = prepare(cells[0].settings, folder)
    waiting = [cell for cell in cells if not _path(folder, cell).exists()]
    done = len(cells) - len(waiting)
    if progress is not None:
        progress(done, len(cells), "")
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        futures = {pool.submit(_execute, cell, folder, init): cell for cell in waiting}
        for future in as_completed(futures):
            cell = futures[future]
            failure = future.result()
            if failure:
                failures[f"{cell.contender.label} (seed {cell.seed})"] = failure
            done += 1
            if progress is not None:
                progress(
                    done, len(cells), f"{cell.contender.label} (seed {cell.seed})" + (": failed" if failure else "")
                )
    records = [json.loads(_path(folder, cell).read_text()) for cell in cells if _path(folder, cell).exists()]
    _write(folder / "failures.json", failures)
    if not records:
        name, reason = next(iter(failures.items()))
        raise UserError(f"every cell of the comparison failed; the first: {name}: {reason}")
    return records


def _execute(cell: Cell, folder: Path, init: Path) -> str:
    """Run one cell in its own process; '' on success, else the last line it said."""
    out = _path(folder, cell)
    spec, log = out.with_suffix(".spec.json"), out.with_suffix(".log")
    _write(spec, {"cell": asdict(cell), "init": str(init)})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    with log.open("w") as said:
        code = subprocess.run(
            [sys.executable, "-m", "anypo.compare.cell", str(spec), str(out)],
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        ).returncode
    if code == 0 and out.exists():
        return ""
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'no output'} (exit {code} after {time.monotonic() - began:.0f} s, log {log})"


def _path(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.key}.json"


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(value, indent=1, default=str))
    partial.replace(path)
