"""Chaos: runs that are killed again and again, and resumed, must end as the one that was left alone.

    python scripts/chaos.py [--kills 300] [--minutes 10] [--seed 0]

Every round starts one small run as a process of its own (a fork of this one) and ends it at a moment drawn from the seed: with
SIGKILL at the n-th operation on a file (write, rename, delete, sync), or with SIGKILL, SIGTERM or SIGHUP after a time, once or
several times, each time resumed; between two sessions the clock is set (simulated: the time a process began, as it is told by the
boot time). Or the run may not write files beyond a size, as on a full disk, and is resumed once it may. Metrics, evaluations,
rollouts and final weights are then compared with those of the uninterrupted run. Prints one line a round, and the count of
differences, which is the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
import transformers  # noqa: F401 - so that no child has to import it
from safetensors.torch import load_file

import anypo.cli
import anypo.run.session
from anypo.run.disk.folder import RunFolder

SMALL = ("-m", "tiny", "--steps", "6", "--sft-steps", "6", "--eval-size", "8", "--eval-every", "3", "--save-every", "2")
TEXT = (*SMALL, "--set", "control.prompts=4", "--set", "control.samples=4", "--set", "generate.max_new=6")
WORLD = ("--task", "CartPole-v1", "--steps", "6", "--eval-size", "4", "--eval-every", "3", "--save-every", "2")
RUNS = {
    "grpo": ("--system", "grpo", *TEXT),
    "lora": ("--system", "grpo", *TEXT, "--lora", "4"),
    "ppo": ("--system", "ppo", *WORLD, "--set", "generate.steps=32", "--set", "update.epochs=1"),
    "remix": ("--system", "remix", *TEXT),
    "dapo": ("--system", "dapo", *TEXT, "--set", "filter.rounds=2"),  # with rollouts that are set aside
}
TIMED = ("time", "memory/", "rollout/tokens_per_second", "tokens_per_second")


def session(
    words: tuple[str, ...],
    fatal: int = 0,
    shift: float = 0.0,
    after: tuple[float, int] | None = None,
    most: int = 0,
) -> int:
    """One process: its exit code, or minus the signal that ended it.

    fatal: the operation on a file at which it dies; shift: seconds by which the boot time has moved; after: seconds, and the signal
    then sent; most: bytes a file may have. It is forked from this one, which has imported everything but done nothing.
    """
    child = os.fork()
    if child == 0:
        _be(words, fatal, shift, most)
    until = time.monotonic() + (after[0] if after else 0.0)
    while True:
        done, status = os.waitpid(child, 0 if after is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if after is not None and time.monotonic() > until:
            os.kill(child, after[1])
            after = None
        time.sleep(0.01)


def _be(words: tuple[str, ...], fatal: int, shift: float, most: int) -> NoReturn:
    """Become `anypo *words`."""
    code = 1
    try:
        os.setsid()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        began = psutil.Process.create_time
        psutil.Process.create_time = lambda self: began(self) + shift  # type: ignore[method-assign]
        _dying_at(fatal)
        if most:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        sys.argv = ["anypo", *words]
        anypo.cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os._exit(code)


def _dying_at(fatal: int) -> None:
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return call

    for module, names in ((os, ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir")), (shutil, ("rmtree",))):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


def result(run: Path) -> dict[str, Any]:
    """What a run came to, without what depends on the hour."""
    if not (run / "config.yaml").exists():
        return {"state": "there is no run"}
    folder = RunFolder.read(run)
    plain = lambda rows: [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]
    weights = {
        str(f.relative_to(run)): {k: v.tolist() for k, v in load_file(f).items()}
        for f in run.glob("model/**/*.safetensors")
    }
    leftovers = [str(f.relative_to(run)) for f in run.rglob(".*") if f.name != ".lock"]
    return {
        "state": folder.status()["state"],
        "metrics": repr(plain(folder.metrics())),
        "evaluations": repr(sorted(plain(folder.evaluations()), key=lambda entry: str(entry["label"]))),
        "rollouts": [repr(folder.rollouts(step).to_pylist()) for step in folder.rollout_steps()],
        "aside": [repr(t.to_pylist()) for step in folder.rollout_steps() if (t := folder.aside(step)) is not None],
        "weights": repr(weights),
        "checkpoint": (folder.latest(), len(folder.checkpoints())),  # an ended session leaves one more before it
        "manifest": bool(folder.manifest()),
        "leftovers": leftovers,
    }


def killed(name: str, run: Path, chance: random.Random, length: float) -> tuple[str, int]:
    """End a run several times and resume it until it is done; what was done, and how often it died."""
    told, kills = [], 0
    for attempt in range(8):
        words = ("resume", str(run)) if (run / "config.yaml").exists() else ("train", *RUNS[name], "--out", str(run))
        shift = chance.choice([0.0, 0.0, 5.0, -3600.0])
        if attempt == 0 or chance.random() < 0.5:
            if chance.random() < 0.5:
                fatal = chance.randrange(1, 200)
                code, how = session(words, fatal, shift), f"KILL at file {fatal}"
            else:
                number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
                seconds = chance.uniform(0.3, 1.0) * length
                code, how = session(words, 0, shift, (seconds, number)), f"{number.name[3:]} after {seconds:.1f} s"
        else:
            code, how = session(words, 0, shift), "left alone"
        kills += code != 0
        told.append(f"{how} -> {code}")
        if code == 0 and (run / "model").is_dir():
            break
    return "; ".join(told), kills


def full(name: str, run: Path, chance: random.Random) -> tuple[str, int]:
    """Begin a run where files may not grow beyond a size, as on a full disk, and go on where they may."""
    size = chance.choice([50, 200, 500, 900, 1200])
    code = session(("train", *RUNS[name], "--out", str(run)), most=1000 * size)
    words = ("resume", str(run)) if (run / "config.yaml").exists() else ("train", *RUNS[name], "--out", str(run))
    return f"files of at most {size} kB -> {code}; then room -> {session(words)}", int(code != 0)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    asked.add_argument("--kills", type=int, default=300)
    asked.add_argument("--minutes", type=float, default=60.0)
    asked.add_argument("--seed", type=int, default=0)
    options = asked.parse_args()
    chance, end = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    whole: dict[str, tuple[dict[str, Any], float]] = {}
    kills = rounds = wrong = 0
    names = list(RUNS)
    while kills < options.kills and time.monotonic() < end:
        name = names[rounds % len(names)]
        if name not in whole:
            began = time.monotonic()
            assert session(("train", *RUNS[name], "--out", str(place / name))) == 0, name
            whole[name] = (result(place / name), time.monotonic() - began)
        run = place / f"round-{rounds}"
        if chance.random() < 0.15:
            told, died = full(name, run, chance)
        else:
            told, died = killed(name, run, chance, whole[name][1])
        found, expected = result(run), whole[name][0]
        differing = [key for key in expected if found.get(key) != expected[key]]
        rounds, kills, wrong = rounds + 1, kills + died, wrong + bool(differing)
        print(json.dumps({"round": rounds, "run": name, "differs": differing, "told": told}), flush=True)
        if not differing:
            shutil.rmtree(run)
    print(f"{rounds} runs, ended {kills} times, {wrong} of them differ (seed {options.seed}); in {place}")
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
