"""Golden runs: does a change of the machinery change a number?

    python scripts/golden.py record OUT.json [--only NAME,...] [--jobs 2]
    python scripts/golden.py compare A.json B.json
    python scripts/golden.py between OLDCOMMIT [NEWCOMMIT] [--only NAME,...] [--jobs 2]
    python scripts/golden.py store [--only NAME,...] [--jobs 2]

`record` runs 20 steps of every registered method, and of a few compositions (`golden_beds.py`), and writes every metric of every
step to the last bit, with a hash of the weights. `compare` names the first step and metric in which two records differ (exit
code 1). `between` does both for two commits, on this machine and interpreter. `store` rewrites tests/run/golden.json, the few
rounded numbers which the suite holds to a tolerance: another processor rounds otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from anypo.errors import UserError, unknown

STEPS = 20
STORED = Path(__file__).parents[1] / "tests/run/golden.json"
STORED_STEPS = 4
"""Steps held to a tolerance: few, so that no difference in rounding has grown into another sample."""

HEADLINES = ("reward/mean", "policy/entropy", "tokens/trained", "update/loss", "update/grad_norm", "weights/moved")
UNTRUE = ("time/", "memory/", "rollout/tokens_per_second")
"""Beginnings of metrics that depend on the hour."""

Record = dict[str, Any]


# -- running --------------------------------------------------------------------------------------------------------------------


def steps(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Metrics of the first `count` steps of a golden run, with ``weights`` (a hash, text) and ``weights/moved`` (the distance
    from the initial ones)."""
    import torch
    from golden_beds import runs

    torch.set_num_threads(1)
    trainer = runs()[name].trainer(name, STEPS)
    weights = lambda: [p.detach().clone() for p in trainer.world.policy.parameters()]
    start = weights()
    for _ in range(count):
        metrics = {name: float(value) for name, value in trainer.step().items() if not name.startswith(UNTRUE)}
        now = weights()
        digest = hashlib.sha256(b"".join(w.double().numpy().tobytes() for w in now)).hexdigest()[:16]
        moved = math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in zip(now, start)))
        yield {**metrics, "weights": digest, "weights/moved": moved}


def run(name: str, count: int = STEPS) -> Record:
    """``metrics``: per name the values of all steps (None where a step has none), numbers as they are; or ``error``."""
    try:
        logs = list(steps(name, count))
    except Exception as error:  # whatever it is, it is reported
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    names = sorted(set().union(*logs))
    return {"metrics": {name: [log.get(name) for log in logs] for name in names}}


def run_all(only: Sequence[str], jobs: int, count: int = STEPS) -> dict[str, Record]:
    """Every golden run, or those in `only`, in `jobs` processes."""
    from golden_beds import runs

    known = runs()
    for name in only:
        if name not in known:
            raise unknown("golden run", name, known)
    names = list(only) or list(known)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(run, names, [count] * len(names))))
    for name, record in found.items():
        if "error" in record:
            print(f"{name}: cannot run: {record['error']}")
    return found


def record(out: Path, only: Sequence[str], jobs: int) -> int:
    """Write a record; 1 when a run failed."""
    import torch

    import anypo

    found = run_all(only, jobs)
    for entry in found.values():
        for values in entry.get("metrics", {}).values():
            values[:] = [value.hex() if isinstance(value, float) else value for value in values]
    about = {"tree": str(Path(anypo.__file__).parents[1]), "torch": torch.__version__, "processor": processor()}
    out.write_text(json.dumps({**about, "steps": STEPS, "runs": found}))
    failed = sum("error" in entry for entry in found.values())
    print(f"{out}: {len(found) - failed} runs of {STEPS} steps" + (f", {failed} failed" if failed else ""))
    return int(failed > 0)


def processor() -> str:
    """Which one this is: records of two are not comparable to the bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# -- comparing ------------------------------------------------------------------------------------------------------------------


def compare(a: Path, b: Path) -> int:
    """Print what became of every run of `a` in `b`; 1 when anything differs or nothing can be said."""
    old, new = json.loads(a.read_text()), json.loads(b.read_text())
    for key in ("torch", "processor"):
        if old[key] != new[key]:
            print(f"note: recorded with different {key}: {old[key]} and {new[key]}")
    equal, different = 0, 0
    for name in sorted(old["runs"].keys() | new["runs"].keys()):
        if name not in old["runs"]:
            print(f"{name}: only in the second record")
            continue
        reason = difference(old["runs"][name], new["runs"].get(name))
        equal += not reason
        different += bool(reason)
        fresh = gained(old["runs"][name], new["runs"].get(name))
        print(f"{name}: {reason or 'equal'}" + (f" (new metrics: {', '.join(fresh)})" if fresh else ""))
    print(f"{equal} equal, {different} different")
    return int(different > 0 or not equal)


def difference(old: Record, new: Record | None) -> str:
    """The first step and metric in which two records of a run differ, in words; '' when they do not. Metrics that only the new one
    has are no difference, metrics that it lacks are."""
    if new is None:
        return "missing in the second record"
    if "error" in old or "error" in new:
        return f"cannot run: {old.get('error', 'runs')} | {new.get('error', 'runs')}"
    before, after = old["metrics"], new["metrics"]
    for step in range(STEPS):
        pairs = {name: (values[step], after.get(name, [None] * STEPS)[step]) for name, values in before.items()}
        found = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if found:
            name = next((name for name in found if name != "weights"), "weights")
            first, second = (readable(value) for value in found[name])
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return f"DIFFERENT at step {step + 1}: {name} {first} | {second}{more}"
    return ""


def gained(old: Record, new: Record | None) -> list[str]:
    return sorted((new or {}).get("metrics", {}).keys() - old.get("metrics", {}).keys())


def readable(value: str | None) -> str:
    """A stored number in decimal, all digits; a hash as it is."""
    if value is None:
        return "absent"
    return repr(float.fromhex(value)) if "0x" in value or value in ("nan", "inf", "-inf") else value


def between(old: str, new: str, only: Sequence[str], jobs: int) -> int:
    """Record two commits in worktrees of their own with the newer one's script, and compare."""
    here = Path(__file__).resolve()
    with (
        tempfile.TemporaryDirectory() as folder,
        worktree(Path(folder) / "old", old) as first,
        worktree(Path(folder) / "new", new) as second,
    ):
        script = second / "scripts" / here.name
        script = script if script.is_file() else here
        outs = []
        for tree in (first, second):
            outs.append(Path(folder) / f"{tree.name}.json")
            command = [sys.executable, str(script), "record", str(outs[-1]), "--jobs", str(jobs)]
            command += ["--only", ",".join(only)] if only else []
            subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"})
            used = Path(json.loads(outs[-1].read_text())["tree"]) if outs[-1].is_file() else None
            if used is None or used.resolve() != tree.resolve():
                print(f"recording {tree.name} failed" if used is None else f"{tree.name} imported anypo from {used}")
                return 2
        return compare(*outs)


@contextmanager
def worktree(path: Path, commit: str) -> Iterator[Path]:
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(path), commit], check=True)
    try:
        yield path
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(path)], check=True)


# -- what the suite keeps -------------------------------------------------------------------------------------------------------


def headlines(found: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The few metrics that the suite compares, six digits."""
    rounded = lambda value: None if value is None else float(f"{value:.6g}")
    return {name: [rounded(value) for value in found[name]] for name in HEADLINES if name in found}


def store(only: Sequence[str], jobs: int) -> int:
    """Rewrite the stored numbers, all of them or those of the runs named; 1 (and nothing written) when a run failed."""
    found = run_all(only, jobs, STORED_STEPS)
    if any("error" in entry for entry in found.values()):
        return 1
    kept = json.loads(STORED.read_text()) if only and STORED.is_file() else {}
    kept |= {name: headlines(entry["metrics"]) for name, entry in found.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept)]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{STORED}: {len(found)} runs written")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name: str, act: Callable[[Any], int], *positional: str, runs: bool = True) -> argparse.ArgumentParser:
        own = commands.add_parser(name)
        for argument in positional:
            own.add_argument(argument)
        if runs:
            own.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,...")
            own.add_argument("--jobs", type=int, default=2)
        own.set_defaults(act=act)
        return own

    command("record", lambda o: record(Path(o.out), o.only, o.jobs), "out")
    command("compare", lambda o: compare(Path(o.a), Path(o.b)), "a", "b", runs=False)
    pair = command("between", lambda o: between(o.old, o.new, o.only, o.jobs), "old")
    pair.add_argument("new", nargs="?", default="HEAD")
    command("store", lambda o: store(o.only, o.jobs))
    options = parser.parse_args(arguments)
    try:
        return int(options.act(options))
    except (UserError, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
