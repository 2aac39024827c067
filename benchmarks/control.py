"""Methods of control beside stable-baselines3's, at equal steps and with its default settings.

    python -m benchmarks.control --environment CartPole-v1 --steps 20480 --seeds 3 ppo grpo
    python -m benchmarks.control --environment InvertedPendulum-v5 --steps 20480 --seeds 3
    python -m benchmarks.control --environment Pendulum-v1 --steps 5120 --seeds 5 sac

Of an on-policy method everything but the objective is PPO's (critic, generalised advantages, ten epochs of 32 minibatches), so each
name stands for its objective; beside it runs PPO, beside `sac` SAC. `learning`: mean return of the episodes during training;
`score`: mean return of the most likely actions afterwards; `ms`: milliseconds of one core per step of the environment. The two
sides take turns, seed by seed.
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
from anypo.claims.control.off_policy import trained
from anypo.run.trainer import Trainer
from anypo.systems import find, methods

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers/bin/python"
EPISODES = 10


def on_policy(name: str, environment: str, steps: int, seed: int) -> tuple[Trainer, list[float]]:
    """One run with PPO's critic and rollouts, and the returns of its episodes."""
    returns: list[float] = []
    return learn(name, ControlBed(environment), steps, seed, returns)[1], returns


def off_policy(name: str, environment: str, steps: int, seed: int) -> tuple[Trainer, list[float]]:
    """One run on single transitions, and the returns of its episodes."""
    returns: list[float] = []

    def watch(trainer: Trainer) -> None:
        ended = (t.extra.get("episode_return") for group in trainer.producer.fresh for t in group.trajectories)
        returns.extend(float(value) for value in ended if value is not None)

    return trained(find(name).algorithm(), seed, steps, environment, watch), returns


def ours(name: str, environment: str, steps: int, seed: int) -> dict[str, float]:
    """One run of this library."""
    run, began = (off_policy if name in methods("transitions") else on_policy), time.process_time()
    trainer, returns = run(name, environment, steps, seed)
    cost = (time.process_time() - began) / steps
    return {"learning": float(np.mean(returns)), "score": score(trainer, EPISODES, 10_000), "ms": 1000 * cost}


def peer(method: str, environment: str, steps: int, seed: int, python: Path) -> dict[str, float]:
    """One run of stable-baselines3."""
    job = json.dumps({"method": method, "environment": environment, "steps": steps, "seed": seed, "episodes": EPISODES})
    done = subprocess.run([python, ROOT / "benchmarks/workers/sb3.py", job], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["ppo"])
    parser.add_argument("--environment", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=20_480)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS, help="a Python that has stable-baselines3")
    given = parser.parse_args()
    torch.set_num_threads(1)
    beside = "sac" if "sac" in given.systems else "ppo"
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        job = (given.environment, given.steps, seed)
        for name in given.systems:
            rows.setdefault(name, []).append(ours(name, *job))
        rows.setdefault(f"stable-baselines3 {beside}", []).append(peer(beside, *job, given.peers))
        print(f"seed {seed}: { ({name: found[-1] for name, found in rows.items()}) }", flush=True)
    print(f"\n{given.environment}, {given.steps} steps, {given.seeds} seeds: mean (standard error)")
    for name, found in rows.items():
        cells = [
            f"{key} {np.mean(values):.1f} ({np.std(values, ddof=1) / len(values) ** 0.5:.1f})"
            for key in ("learning", "score", "ms")
            for values in [[entry[key] for entry in found]]
        ]
        print(f"  {name:24s} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
