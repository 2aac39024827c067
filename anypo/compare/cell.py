"""Running one cell: train to the budget, evaluate along the way on the same held-out problems as every other cell.

`python -m anypo.compare.cell SPEC.json OUT.json` runs one cell in a process of its own (one thread, its own peak memory). It
tells its progress as JSON lines on the standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anypo import roles
from anypo.algorithm import Algorithm
from anypo.budget import MEASURES, METRICS, PATIENCE, planned
from anypo.compare.plan import Cell
from anypo.engine import device as devices
from anypo.files import replace_text
from anypo.generate.base import World, check_suits
from anypo.run.beside import standing
from anypo.run.record.memory import peak_gb
from anypo.tasks.environments import is_environment

HISTORY = {
    "reward": "reward/mean",
    "entropy": "policy/entropy",
    "length": "rollout/length",
    "degenerate": "rollout/degenerate",
    "truncated": "rollout/truncated",
    "grad_norm": "update/grad_norm",
}
"""Step metrics that a record keeps, by their short names."""

POINTS = 60
"""Most points of a kept history."""

Tell = Callable[[dict[str, Any]], None]
"""Called after every step with the share of the budget spent, and the last held-out score with its unit."""


def run(cell: Cell, init: str, tell: Tell | None = None) -> dict[str, Any]:
    """Load, train, evaluate; returns the cell's record (see `Meter.record`)."""
    from anypo import tasks
    from anypo.policies.classes import Wanted

    algorithm = Algorithm.from_dict(cell.contender.algorithm).check()
    task = tasks.load(tasks.parse(cell.task, cell.settings.task_options[cell.task]))
    check_suits(algorithm, task)
    own = cell.settings
    wanted = Wanted(task, own.model, cell.seed, device=devices.resolve(own.device), chat=own.chat_args)
    policy = algorithm.policy.open(wanted, "" if is_environment(cell.task) else init)
    sampler = algorithm.engine.sampler(policy)
    models = roles.cast(algorithm.models, policy, sampler, cell.seed)
    return measure(cell, algorithm, World(task, policy, sampler, models), tell)


def measure(cell: Cell, algorithm: Algorithm, world: World, tell: Tell | None = None) -> dict[str, Any]:
    """Train in `world` until the budget is spent and return the record."""
    from anypo.run.trainer import Trainer

    trainer = Trainer(algorithm, world, seed=cell.seed, total=_planned(cell), beside=True)
    meter = Meter(cell, algorithm, world)
    meter.evaluate()
    while meter.share < 1:
        metrics = trainer.step()
        meter.beside.append(
            {name: value for name, value in metrics.items() if name.startswith("base/")} | trainer.witness.said
        )
        meter.spend(metrics)
        meter.evaluate_if_due()
        if meter.share:  # schedules need a length, which no budget says beforehand
            trainer.total = planned(trainer.number, meter.share)
        if tell is not None:
            tell({"share": min(1.0, meter.share), "score": meter.last.score, "unit": meter.last.unit})
    return meter.record()


class Meter:
    """What a cell has spent and how good it was when."""

    def __init__(self, cell: Cell, algorithm: Algorithm, world: World) -> None:
        self.cell, self.settings, self.algorithm, self.world = cell, cell.settings, algorithm, world
        self.spent = dict.fromkeys(MEASURES, 0.0)
        self.curve: list[dict[str, float]] = []
        self.history: list[dict[str, float]] = []
        self.beside: list[dict[str, Any]] = []
        self.began, self.idle = time.perf_counter(), 0
        self.last: Any = None

    @property
    def share(self) -> float:
        """Share of the budget spent."""
        return self.spent[self.settings.budget.measure] / self.settings.budget.amount

    def spend(self, metrics: dict[str, float]) -> None:
        """Book a step. Raises `RuntimeError` when the budget does not move any more."""
        before = self.share
        for measure, name in METRICS.items():
            self.spent[measure] += metrics.get(name, 0.0)
        kept = {name: metrics[key] for name, key in HISTORY.items() if key in metrics}
        self.history.append({**self.spent, **kept})
        self.idle = 0 if self.share > before else self.idle + 1
        if self.idle >= PATIENCE:
            raise RuntimeError(
                f"{PATIENCE} steps in a row spent nothing of the budget ({self.settings.budget}); where all answers of a "
                "group earn the same, nothing is learned: a warm start (--sft-steps) or an easier task helps"
            )

    def evaluate_if_due(self) -> None:
        """Evaluate when another equal part of the budget is spent."""
        due, done = (int(share * self.settings.evaluations + 1e-9) for share in (self.share, self.curve[-1]["share"]))
        if self.share >= 1 or due > done:
            self.evaluate()

    def evaluate(self) -> None:
        """Sampled rollouts of the held-out problems: their score (of answers, pass@1) is that of the curve."""
        self.last = self._score(self.settings.samples, 1.0)
        point = {"share": min(1.0, self.share), self.last.unit: self.last.score, "length": self.last.length}
        self.curve.append({**self.spent, **point})

    def record(self) -> dict[str, Any]:
        """What the comparison keeps: the curve over the budget, final scores, costs, and thinned step metrics."""
        samples, last = self.settings.samples, self.last
        k = max(last.pass_at, default=samples)
        entropies = [t.entropy for t in last.trajectories if t.entropy is not None and len(t.entropy)]
        texts = np.array([t.text for t in last.trajectories], dtype=object).reshape(-1, samples)
        greedy = self._score(1, 0.0)
        ending = self.history[-max(5, len(self.history) // 5) :]
        final = {
            last.unit: last.score,
            "greedy": greedy.score,
            "pass_at_k": last.pass_at.get(k, float("nan")),
            "maj_at_k": last.majority,
            "diversity": float(np.mean([len(set(row)) / len(row) for row in texts])),
            "entropy": float(np.concatenate(entropies).mean()) if entropies else float("nan"),
            "length": last.length,
            "degenerate": _mean([h["degenerate"] for h in ending if "degenerate" in h]),
            "reward": _mean([h["reward"] for h in ending if "reward" in h]),
            "peak_gb": peak_gb(),
        }
        return {
            "label": self.cell.contender.label,
            "task": self.cell.task,
            "seed": self.cell.seed,
            "factors": dict(self.cell.contender.factors),
            "unit": last.unit,
            "k": k,
            "device": str(getattr(self.world.policy, "device", "cpu")),
            "curve": self.curve,
            "final": final,
            "spent": self.spent,
            "steps": len(self.history),
            "wall": time.perf_counter() - self.began,
            "history": thin(self.history),
            "base": found.plain() if (found := standing(self.beside)) is not None else {},
        }

    def _score(self, samples: int, temperature: float) -> Any:
        from anypo.scoring import scorer_of

        size = self.settings.eval_size
        scorer = scorer_of(self.world.task).replace(size=size, samples=samples, temperature=temperature)
        return scorer.score(self.world, self.algorithm.generate, self.settings.init_seed)


def thin(history: Sequence[dict[str, float]], most: int = POINTS) -> dict[str, list[float]]:
    """Columns of at most `most` points, each the mean over consecutive steps; nan where a step did not log the metric."""
    names = [*MEASURES, *(name for name in HISTORY if any(name in h for h in history))]
    pieces = [piece for piece in np.array_split(np.arange(len(history)), min(most, len(history))) if len(piece)]
    return {
        name: [_mean([history[i][name] for i in piece if name in history[i]]) for piece in pieces] for name in names
    }


def _planned(cell: Cell) -> int:
    """Steps a schedule is told at first."""
    return int(cell.settings.budget.amount) if cell.settings.budget.measure == "updates" else 100


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def main() -> None:
    import torch

    from anypo.errors import UserError
    from anypo.plugins import plugin

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    tell = lambda progress: print(json.dumps(progress), flush=True)
    began = time.perf_counter()
    try:
        for name in spec.get("plugins", ()):
            plugin(name)
        record = run(Cell.from_plain(spec["cell"]), spec["init"], tell)
    except UserError as error:
        print(f"anypo: {error}", file=sys.stderr)
        sys.exit(2)
    record |= {"code": spec["code"], "wall": time.perf_counter() - began}
    replace_text(out, json.dumps(record))


if __name__ == "__main__":
    main()
