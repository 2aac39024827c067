"""What choosing prompts costs by itself: seconds of one core a step, beside the steps that are recorded.

    python -m benchmarks.choosing --problems 100000

Every problem has been met before the measurement, all of them in one step (the worst case of a memory by problem) and `IDLE` steps
ago, and none is rolled out: only `choose` and `observe` are timed. A controller that asks a model has a small one here; what the
passes of a language model cost is measured in real steps (metric ``time/control``), with ``--run MODEL``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from anypo.claims.beds.items import Items
from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.fits import Nets
from anypo.run.settings.config import resolve
from anypo.run.stages import Stages
from anypo.run.trainer import Trainer
from anypo.systems import find

RESULTS = Path(__file__).parent / "results.json"
IDLE = 80
CONTROLLERS = ("grpo", "pcl", "vade", "dps", "dots-rr", "craft-gui")


def seconds(name: str, problems: int, steps: int = 20) -> float:
    """Median seconds of one core for the choices and lessons of a step of 8 prompts x 8 rollouts."""
    items = Items(count=problems, prompts=8, samples=8)
    method = items.adapt(name)
    if "passes" in type(method.control).model_fields:
        method = method.set({"control.passes": 0})
    trainer = Trainer(method, items.world(0), 0, 1 + IDLE + steps)
    first = trainer.step()  # the arrays are made here, and whatever is read once
    assert first["step"] == 1
    part, sample = trainer.algorithm.control, trainer.groups[0]
    everyone = [Group(i, sample.trajectories, sample.problem, index=i) for i in range(problems)]
    context = _context(trainer, 1)
    part.observe(everyone, Batch.pack([]), context)
    took = []
    for step in range(2, 2 + IDLE + steps):
        context = _context(trainer, step)
        began = time.process_time()
        asks = part.choose(problems, part.prompts, context)
        if method.filter.rounds > 1 and step % 2 == 0:  # references first, then prompts
            asks = part.choose(problems, part.prompts, context)
        part.observe([everyone[ask.index] for ask in asks], Batch.pack([]), context)
        took.append(time.process_time() - began)
    return float(np.median(took[IDLE:]))


def _context(trainer: Trainer, step: int) -> Context:
    """That of a step, as the producer makes it."""
    context = Context(step, trainer.total, 0, trainer.memory)
    context.world, context.nets = trainer.world, Nets(trainer.weights.learners)
    return context


def share(name: str, model: str, steps: int = 4) -> tuple[float, float]:
    """Seconds a step, and control's share of them, in a run of a method on a model's own task (the first step left out)."""
    stages = Stages(resolve(name, model, {}, eval_size=0))
    trainer = Trainer(stages.legs[0].stage.algorithm, stages.open(), 0, steps + 1)
    rows = [trainer.step() for _ in range(steps + 1)][1:]
    total = sum(row["time/step"] for row in rows)
    return total / steps, sum(row["time/control"] for row in rows) / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=list(CONTROLLERS))
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument(
        "--run", default="", metavar="MODEL", help="measure control's share of real steps of this model"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    recorded = json.loads(RESULTS.read_text())
    beside = {row: recorded[row]["anypo"]["seconds"]["median"] for row in ("step-tiny", "step")}
    for name in given.systems:
        find(name)
        if given.run:
            step, part = share(name, given.run)
            print(f"{name:12s} {1000 * step:8.0f} ms a step, control {100 * part:5.2f} %", flush=True)
            continue
        took = seconds(name, given.problems)
        rest = ", ".join(f"{100 * took / step:.2f} % of {row} ({step:.2f} s)" for row, step in beside.items())
        print(f"{name:12s} {1000 * took:8.2f} ms: {rest}", flush=True)


if __name__ == "__main__":
    main()
