"""Made-up cell records with the shape of real ones, for looking at and testing boards and reports."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

SKILL = {
    "dapo": (0.30, 6.0),
    "cispo": (0.28, 5.0),
    "grpo": (0.25, 4.5),
    "dr-grpo": (0.24, 4.5),
    "rloo": (0.22, 5.0),
    "gspo": (0.215, 3.5),
    "mc-grpo": (0.24, 4.0),
    "reinforce++": (0.15, 3.0),
    "ppo": (0.12, 2.0),
    "reinforce": (0.05, 2.0),
}
"""Gain and speed of each made-up method."""


def record(label: str, seed: int, gain: float, speed: float, task: str = "chain_sum", **factors: str) -> dict[str, Any]:
    random = np.random.default_rng([sum(map(ord, label + task)), seed])
    gain = gain + 0.02 * random.normal()
    dear = 1.0 + 0.8 * (label.startswith(("dapo", "ppo")))
    steps = 120
    shares = np.arange(1, steps + 1) / steps

    def spent(share: float) -> dict[str, float]:
        return {
            "tokens": 1e5 * share,
            "trained": 9e4 * share / dear,
            "seconds": 42 * dear * share,
            "updates": steps * share,
        }

    def accuracy(share: float) -> float:
        value = 0.24 + gain * (1 - np.exp(-speed * share)) + 0.008 * random.normal() * (share > 0)
        return float(np.clip(value, 0.0, 1.0))

    curve = [{**spent(s), "share": s, "accuracy": accuracy(s), "length": 3.2 - 0.3 * s} for s in np.linspace(0, 1, 9)]
    final = curve[-1]["accuracy"]
    return {
        "label": label,
        "task": task,
        "seed": seed,
        "factors": factors,
        "k": 8,
        "curve": curve,
        "final": {
            "accuracy": final,
            "greedy": final + 0.03,
            "pass_at_k": min(1.0, final + 0.2),
            "maj_at_k": min(1.0, final + 0.05),
            "diversity": 0.5 - 0.3 * gain,
            "entropy": 0.7 - gain + 0.01 * random.normal(),
            "length": 3.0 + 0.1 * random.normal(),
            "degenerate": 0.0 if label == "dapo" else 0.4 + 0.5 * gain,
            "reward": final + 0.02,
            "peak_gb": 0.9 + 0.2 * label.startswith("ppo"),
        },
        "spent": spent(1.0),
        "steps": steps,
        "wall": 42 * dear + 14,
        "history": {
            **{name: [spent(s)[name] for s in shares[::2]] for name in ("tokens", "trained", "seconds", "updates")},
            "reward": [accuracy(s) + 0.03 * random.normal() for s in shares[::2]],
            "entropy": [0.8 - gain * s + 0.02 * random.normal() for s in shares[::2]],
            "length": [3.2 - 0.3 * s + 0.05 * random.normal() for s in shares[::2]],
            "degenerate": [float(np.clip(0.5 + 0.3 * s + 0.05 * random.normal(), 0, 1)) for s in shares[::2]],
            "truncated": [0.0 for _ in shares[::2]],
            "grad_norm": [2.0 * np.exp(-s) + 0.1 * abs(random.normal()) for s in shares[::2]],
        },
        "code": {"version": "0.1.0", "commit": "abc", "modified": False},
    }


def records(seeds: int = 5, methods: int = 10, task: str = "chain_sum") -> list[dict[str, Any]]:
    chosen = list(SKILL.items())[:methods]
    return [record(label, seed, *skill, task=task) for seed in range(seeds) for label, skill in chosen]


def factorial(seeds: int = 5) -> list[dict[str, Any]]:
    worth = {"mean": 0.2, "median": 0.22, "loo": 0.24, "clip": 0.0, "balanced": 0.05}
    return [
        record(
            f"credit={credit} trust={trust}",
            seed,
            worth[credit] + worth[trust] + 0.04 * (credit == "loo" and trust == "balanced"),
            4.0,
            credit=credit,
            trust=trust,
        )
        for seed in range(seeds)
        for credit, trust in itertools.product(("mean", "median", "loo"), ("clip", "balanced"))
    ]
