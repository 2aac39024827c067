"""Commands as processes of their own: asked for what they print, or killed without warning, and what they measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from command import Outcome

TIMED = ("time", "memory/", "rollout/tokens_per_second")
"""Metrics that depend on the hour and the machine."""


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["anypo.cli", "anypo.run.session", "transformers"])
"""Where the runs come from: a process that has imported the library, once, and done nothing else."""


def _run(
    words: tuple[str, ...], here: str, environment: dict[str, str], out: str = os.devnull, err: str = "", site: str = ""
) -> None:
    """The command line in a process of its own, as a shell would start it in the folder `here`; `out` and `err`: files for what it
    prints; `site`: where installed packages are found, too."""
    import torch

    from anypo.cli import main

    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(here)
    for number, file in ((1, out), (2, err)):
        if file:
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.path[:] = [*filter(None, (site,)), *filter(None, sys.path)]
    sys.argv = ["anypo", *words]
    main()


def apart(words: tuple[str, ...], here: Path, site: str = "") -> Outcome:
    """What `anypo *words` leaves behind, run in the folder `here` by a process that knows nothing of this one."""
    out, err = here / "printed", here / "complained"
    process = SERVER.Process(target=_run, args=(words, str(here), dict(os.environ), str(out), str(err), site))
    process.start()
    process.join()
    printed = Outcome(int(process.exitcode or 0), out.read_text(), err.read_text())
    out.unlink(), err.unlink()
    return printed


def killed_run(folder: Path, words: tuple[str, ...], steps: int) -> None:
    """Start `anypo *words --out folder` and kill it once it has recorded `steps` steps, which must be before its end."""
    process = SERVER.Process(target=_run, args=((*words, "--out", str(folder)), os.getcwd(), dict(os.environ)))
    process.start()
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        assert process.is_alive(), "the run must be killed before it ends"
        time.sleep(0.005)
    process.kill()
    process.join()


def results(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics and evaluations of a run, without what depends on the hour."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows]
    scores = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return metrics, [{key: value for key, value in score.items() if not key.startswith("time")} for score in scores]
