"""Policy gradients in control beside stable-baselines3's PPO, at equal steps and with its default settings.

    python -m benchmarks.control --environment CartPole-v1 --steps 20480 --seeds 3 ppo grpo
    python -m benchmarks.control --environment InvertedPendulum-v5 --steps 20480 --seeds 3

Everything but the objective is PPO's (critic, generalised advantages, ten epochs of 32 minibatches), so each name stands for its
objective. `learning`: mean return of the episodes during training; `score`: mean return of the most likely actions afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anypo.claims.beds.control import ControlBed, learn, score

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers/bin/python"
EPISODES = 10


def ours(name: str, environment: str, steps: int, seed: int) -> dict[str, float]:
    """One run of this library."""
    returns: list[float] = []
    curve, trainer = learn(name, ControlBed(environment), steps, seed, returns)
    del curve
    return {"learning": float(np.mean(returns)), "score": score(trainer, EPISODES, 10_000)}


def peer(environment: str, steps: int, seed: int) -> dict[str, float]:
    """One run of stable-baselines3."""
    job = json.dumps({"environment": environment, "steps": steps, "seed": seed, "episodes": EPISODES})
    done = subprocess.run(
        [PEERS, ROOT / "benchmarks/workers/sb3_ppo.py", job], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["ppo"])
    parser.add_argument("--environment", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=20_480)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for name in [*given.systems, "stable-baselines3 ppo"]:
            began = time.process_time()
            run = peer if name.startswith("stable") else lambda *job, name=name: ours(name, *job)
            rows.setdefault(name, []).append(run(given.environment, given.steps, seed))
            print(f"{name} seed {seed}: {rows[name][-1]} ({time.process_time() - began:.0f} s here)", flush=True)
    print(f"\n{given.environment}, {given.steps} steps, {given.seeds} seeds: mean (standard error)")
    for name, found in rows.items():
        cells = [
            f"{key} {np.mean(values):.1f} ({np.std(values, ddof=1) / len(values) ** 0.5:.1f})"
            for key in ("learning", "score")
            for values in [[entry[key] for entry in found]]
        ]
        print(f"  {name:24s} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
