"""Which credit is best when groups are small, rewards sparse, answers long? Measured on the enumerable policy.

    python -m benchmarks.credit                # every table (about half an hour on one core)
    python -m benchmarks.credit --signal       # signal of one batch's gradient by group size
    python -m benchmarks.credit --learning     # learning in three scenes
    python -m benchmarks.credit --tiny         # the tiny transformer on sums, small groups, and a start that is rarely right

Everything else is held fixed: score-function objective with token sums (unbiased, no trust region), the same learning rate.
On the tiny transformer it is GRPO's own objective, and every credit has the same rollouts per step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed, train
from anypo.claims.statistics import paired_interval
from anypo.exact.bench import Setting
from anypo.exact.estimators import measure
from anypo.systems import find

CREDITS: Mapping[str, Mapping[str, Any]] = {
    "no baseline": {"credit.centre": "none"},
    "group mean": {},
    "group mean, std (GRPO)": {"credit.scale": "std"},
    "leave-one-out (RLOO)": {"credit.centre": "leave_one_out"},
    "group median": {"credit.centre": "group_median"},
    "Beta density (BNPO)": {"credit.scale": "beta_density"},
    "batch mean, whitened": {"credit.centre": "batch_mean", "credit.normalise": "whiten"},
    "Beta tracker (SPO)": {"credit.centre": {"part": "beta_tracker", "forgetting": "constant"}},
    "cross probe (POISE)": {"credit.centre": "cross_probe"},
    "generalist value (V0)": {"credit.centre": "generalist_value"},
}
"""Changes of credit against a pipeline with the group mean."""

BASE = {
    "objective.ratio": "score",
    "objective.trust": "none",
    "objective.aggregate": "sequence_sum",
    "credit.scale": "none",
}

SCENES: Mapping[str, tuple[Testbed, int]] = {
    "small group (2 rollouts)": (Testbed(prompts=8, batch=8, group=2, lr=0.03), 60),
    "sparse reward (1 in 81)": (Testbed(prompts=8, batch=8, group=8, lr=0.03, reward="sparse", horizon=5), 80),
    "long sequence (24 tokens)": (
        Testbed(prompts=8, batch=8, group=4, lr=0.03, reward="graded", graph="chain", horizon=24),
        60,
    ),
}

EXTRA: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "long sequence (24 tokens)": {
        "segments (SPO-chain)": {
            "generate": {"part": "re_rolled", "below": 1.1, "interval": 6, "continuations": 2},
            "credit.granularity": "chain_values",
        },
    },
}
"""Credits that only some scenes call for."""


def method(changes: Mapping[str, Any]) -> Algorithm:
    """GRPO's composition with the neutral objective and the changes."""
    return find("grpo").algorithm().set(BASE).set(changes)


def signal(draws: int) -> dict[str, dict[str, tuple[float, float]]]:
    """|E g|^2 / tr Cov(g) per rollout, times 1000, with half its 95 % interval, by credit and group size."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for name, changes in CREDITS.items():
        table[name] = {}
        for group in (1, 2, 4, 8, 64):
            found = measure(method(changes), Setting(group=group, old="trainer"), draws, warmup=32)
            scale = 1000 / (group * 4)
            table[name][str(group)] = scale * found.snr, scale * 1.96 * found.snr_se
            print(
                f"{name:28s} G={group:2d} {scale * found.snr:.3f} +- {scale * 1.96 * found.snr_se:.3f} {found.reason}",
                flush=True,
            )
    return table


def learning(seeds: int) -> dict[str, dict[str, tuple[float, float, float, float]]]:
    """Mean exact reward over training: value, and difference to the group mean with its 95 % interval, by scene and credit."""
    table: dict[str, dict[str, tuple[float, float, float, float]]] = {}
    for scene, (bed, steps) in SCENES.items():
        areas = {}
        for name, changes in {**CREDITS, **EXTRA.get(scene, {})}.items():
            areas[name] = [train(method(changes), bed, steps, seed).area for seed in range(seeds)]
        table[scene] = against_the_group_mean(scene, areas)
    return table


def against_the_group_mean(
    scene: str, found: Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, float, float, float]]:
    """Of each credit's values by seed: mean, and mean difference to the group mean with its 95 % interval."""
    table = {}
    for name, values in found.items():
        gains = [a - b for a, b in zip(values, found["group mean"])]
        low, high = paired_interval(gains)
        table[name] = (float(np.mean(values)), float(np.mean(gains)), low, high)
        print(
            f"{scene:28s} {name:30s} {np.mean(values):.4f} {np.mean(gains):+.4f} [{low:+.4f}, {high:+.4f}]", flush=True
        )
    return table


TINY: Mapping[str, Mapping[str, Any]] = {
    "group mean": {"credit.scale": "none"},
    "group mean, std (GRPO)": {},
    "batch mean, whitened": {"credit.scale": "none", **CREDITS["batch mean, whitened"]},
    "cross probe (POISE)": {"credit.scale": "none", **CREDITS["cross probe (POISE)"]},
    "Beta tracker (SPO), 1 rollout": {
        "credit.scale": "none",
        **CREDITS["Beta tracker (SPO)"],
        "control.prompts": 128,
        "control.samples": 1,
    },
}
"""Changes against GRPO with 64 prompts x 2 rollouts of the tiny transformer."""

TINY_LR = 2e-4
"""Where 128 rollouts a step of the group mean learn (found on seed 0, which is not measured); at the preset's 3e-4, made for 512,
every credit falls below the start."""

STARTS = {"small group (2 rollouts)": 150, "sparse reward (weak start)": 60}
"""Supervised steps before reinforcement learning."""


def tiny(
    seeds: int, steps: int = 240, scenes: Sequence[str] = tuple(STARTS)
) -> dict[str, dict[str, tuple[float, float, float, float]]]:
    """Accuracy of the rollouts in the last quarter of `steps`: value, and difference to the group mean with its 95 % interval."""
    from tempfile import TemporaryDirectory

    from anypo.run.disk.folder import RunFolder
    from anypo.run.session import train as train_run

    table: dict[str, dict[str, tuple[float, float, float, float]]] = {}
    for scene in scenes:
        found: dict[str, list[float]] = {name: [] for name in TINY}
        for seed in range(1, 1 + seeds):
            with TemporaryDirectory() as folder:
                start = f"{folder}/start"
                train_run("grpo", "tiny", steps=0, sft_steps=STARTS[scene], seed=seed, eval_size=0, out=start)
                for number, (name, changes) in enumerate(TINY.items()):
                    sizes = {"control.prompts": 64, "control.samples": 2, "update.optimiser.lr": TINY_LR, **changes}
                    out = Path(folder, str(number))
                    train_run(
                        "grpo",
                        "tiny",
                        steps=steps,
                        sft_steps=0,
                        seed=seed,
                        eval_size=0,
                        set=sizes,
                        init=start,
                        out=str(out),
                    )
                    late = RunFolder.read(out).metrics()[-steps // 4 :]
                    found[name].append(float(np.mean([entry["reward/mean"] for entry in late])))
                    print(f"{scene} seed {seed} {name}: {found[name][-1]:.3f}", flush=True)
        table[scene] = against_the_group_mean(scene, found)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", action="store_true")
    parser.add_argument("--learning", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    every = not (given.signal or given.learning or given.tiny)
    found: dict[str, Any] = {}
    if given.signal or every:
        found["signal"] = signal(given.draws)
    if given.learning or every:
        found["learning"] = learning(given.seeds)
    if given.tiny or every:
        found["tiny"] = tiny(min(given.seeds, 3))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
