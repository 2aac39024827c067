"""Running one cell: train to the budget, evaluate along the way on the same held-out problems as every other cell.

`python -m anypo.compare.cell SPEC.json OUT.json` runs one cell in a process of its own (one thread, its own peak memory).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from anypo.compare.plan import Budget, Cell, Contender, Settings


def run(cell: Cell, init: str) -> dict[str, Any]:
    """Train and evaluate; returns the cell's record (curve over the budget, final scores, costs)."""
    from anypo import policies, tasks
    from anypo.engine.base import Sampling
    from anypo.evaluate import evaluate
    from anypo.generate.base import World
    from anypo.run.trainer import Trainer
    from anypo.systems import find

    settings = cell.settings
    algorithm = find(cell.contender.system).algorithm().set(_applicable(cell)).check()
    policy = policies.load(init, seed=cell.seed)
    task = tasks.load(tasks.parse(settings.task, dict(settings.task_options)))
    world = World(task, policy, algorithm.engine.sampler(policy))
    trainer = Trainer(algorithm, world, seed=cell.seed, total=_planned_steps(settings.budget))
    generate = algorithm.generate
    greedy = Sampling(max_new=generate.max_new, temperature=0.0, stop=generate.stop)
    spent = {"tokens": 0.0, "trained": 0.0, "seconds": 0.0, "updates": 0.0}
    curve: list[dict[str, Any]] = []

    def record() -> None:
        result = evaluate(world, settings.eval_size, sampling=greedy, turns=generate.turns, seed=settings.init_seed)
        curve.append({**spent, "accuracy": result.accuracy, "length": result.length})

    record()
    marks = [settings.budget.amount * (i + 1) / settings.evaluations for i in range(settings.evaluations)]
    history: list[dict[str, float]] = []
    while spent[settings.budget.measure] < settings.budget.amount:
        began = time.perf_counter()
        metrics = trainer.step()
        spent["seconds"] += time.perf_counter() - began
        spent["tokens"] += metrics.get("tokens/generated", 0.0)
        spent["trained"] += metrics.get("tokens/trained", 0.0)
        spent["updates"] = float(policy.version)
        history.append(metrics)
        if len(history) > 50 and spent[settings.budget.measure] == 0:
            raise RuntimeError(f"50 steps spent nothing of the budget '{settings.budget.measure}'")
        if marks and spent[settings.budget.measure] >= marks[0]:
            while marks and spent[settings.budget.measure] >= marks[0]:
                marks.pop(0)
            record()
    sampled = evaluate(
        world,
        min(settings.sample_problems, settings.eval_size),
        samples=settings.samples,
        sampling=Sampling(max_new=generate.max_new, temperature=1.0, stop=generate.stop),
        turns=generate.turns,
        seed=settings.init_seed,
    )
    texts = np.array([t.text for t in sampled.trajectories]).reshape(-1, settings.samples)
    return {
        "label": cell.contender.label,
        "system": cell.contender.system,
        "factors": dict(cell.contender.factors),
        "seed": cell.seed,
        "curve": curve,
        "final": {
            "accuracy": curve[-1]["accuracy"],
            "sampled_accuracy": sampled.accuracy,
            f"pass@{settings.samples}": sampled.pass_at[max(sampled.pass_at)],
            f"maj@{settings.samples}": sampled.majority,
            "diversity": float(np.mean([len(set(row)) / len(row) for row in texts])),
            "entropy": _last(history, "policy/entropy"),
            "length": curve[-1]["length"],
            "degenerate": _last(history, "rollout/degenerate"),
            "train_reward": _last(history, "reward/mean"),
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        },
        "spent": spent,
        "steps": len(history),
    }


def _applicable(cell: Cell) -> dict[str, Any]:
    """The shared settings this method has fields for, then its own changes."""
    from anypo.run.config import has_path
    from anypo.systems import find

    algorithm = find(cell.contender.system).algorithm()
    common = {path: value for path, value in cell.settings.common.items() if has_path(algorithm, path)}
    return common | dict(cell.contender.changes)


def _planned_steps(budget: Budget) -> int:
    """Schedules need a length: exact for updates, a nominal hundred otherwise."""
    return int(budget.amount) if budget.measure == "updates" else 100


def _last(history: list[dict[str, float]], name: str, window: int = 5) -> float:
    values = [h[name] for h in history[-window:] if name in h]
    return float(np.mean(values)) if values else float("nan")


def from_plain(plain: dict[str, Any]) -> Cell:
    """The cell that `dataclasses.asdict` described."""
    settings = dict(plain["settings"])
    settings["budget"] = Budget(**settings["budget"])
    return Cell(Contender(**plain["contender"]), plain["seed"], Settings(**settings))


def main() -> None:
    import torch

    from anypo.errors import UserError

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    try:
        record = run(from_plain(spec["cell"]), spec["init"])
    except UserError as error:
        print(f"anypo: {error}", file=sys.stderr)
        sys.exit(2)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(out)


if __name__ == "__main__":
    main()
