"""Malformed input by the thousand: `python scripts/fuzz.py --each 1000` (or `make fuzz`). Nothing but a sentence may come of any.

Every category makes inputs of what is right and what is nasty, by a seed of its own, and hands them, in this process, to what
the command line would call. A `UserError` is as it should be, and so is success; any other exception is counted with its kind
and its place. The numbers of the last run are in docs/fuzz.json.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import typer
import yaml

from anypo.errors import Interrupted, UserError

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs/fuzz.json"
SLOW = 20.0
"""Seconds of the processor after which an input counts as a failure of its own."""

NASTY = [
    "", " ", "null", "true", "-1", "0", "1", "1e400", "-1e400", ".nan", ".inf", "1" * 5000, "9" * 30, "0x", "1_000",
    "2020-01-01", "!!float x", "!!int x", "!!timestamp x", "!!binary x", "!!bool x", "!!set {a}",
    "!!python/object:os.system x", "&a [*a]", "*a", "[" * 400, "{" * 400, "{a: " * 300, "[[[[]]]]", "{}", "[]",
    "[1, [2", "{part: }", "{part: {}}", "{part: [1]}", "{null: 1}", "{1: 2}", "{true: x}", "a: b: c", "- a\n- b",
    "? x", "'", '"', "\\", "\0", "\ud800", "é", "𝕏", "\u2028", "\x1b[31m", "%s%n", "../..", "/etc/passwd", "a" * 5000,
    "os:system", "x:y", "http://127.0.0.1:9", "a=b=c", "=", "==", ".", "..", "a.b.c.d", ",", ",,", "{,}",
    "a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d]",
]  # fmt: skip

PATHS = [
    "control.prompts", "control.samples", "objective.trust", "objective.trust.high", "credit", "credit.centre",
    "credit.scale", "update.optimizer", "update.lr", "generate.max_new", "generate.stop", "filter", "replay",
    "engine", "engine.kv_tokens", "models", "models.0.role", "policy", "objective.regularisers",
    "objective.regularisers.0.coefficient", "objective.ratio", "nothing", "a.b",
]  # fmt: skip
OPTIONS = [
    "min_terms", "max_terms", "verifier", "verifier.extract", "rewards", "timeout", "memory", "workers", "system",
    "seed", "size", "name",
]  # fmt: skip
WORDS = [
    "grpo", "3", "0.5", "1e-5", "[]", "2", "16", "ppo", "dapo", "tiny", "chain_sum", "sums", "CartPole-v1",
    "halving", "tokens=1k", "trust=clip,balanced", "clip", "auto",
]  # fmt: skip
QUERIES = [
    "select * from rollouts", "select step, avg(reward) from rollouts group by step", "select * from metrics",
    "from answers", "select rewards['correct'] from rollouts", "select date '-infinity'",
    "select timestamp 'infinity' as t", "summarize rollouts", "select map([[1]], [2])",
    "select 1::hugeint * 170141183460469231731687303715884105727", "select unnest([1, 2])", "select blob '\\xFF'",
    "select interval '1' year", "select {'a': 1}", "select time '24:00:00'", "select uuid()", "select '1'::bit",
    "values (1), (null)", "with x as (copy (select 1) to 'stolen') select * from x",
    "select * from read_text('/etc/passwd')", "describe rollouts", "select nan::float",
]  # fmt: skip


def mixed(chance: random.Random, *pools: list[str]) -> str:
    """A text of one of the pools, or of two, cut and glued."""
    text = chance.choice(chance.choice(pools))
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        other, at = chance.choice(chance.choice(pools)), chance.randrange(len(text) + 1)
        text = text[:at] + other[: chance.randrange(len(other) + 1)] + text[at:][: chance.choice((0, 10**6))]
    return text


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Bytes that were right, cut, overwritten, doubled or filled with something else."""
    at, size = chance.randrange(len(data) + 1), chance.choice((1, 4, 64))
    return chance.choice(
        [
            data[:at],
            data[:at] + chance.randbytes(size) + data[at + size :],
            data[:at] + chance.choice(NASTY).encode("utf-8", "surrogatepass") + data[at:],
            data[at:] + data[:at],
            data + data,
            data[:at] + bytes(size) + data[at + size :],
            b"",
        ]
    )


def strange(chance: random.Random, value: Any) -> Any:
    """A plain value with one node somewhere replaced, removed or renamed."""
    odd = [
        None,
        True,
        -1,
        0,
        1e400,
        float("nan"),
        10**30,
        "",
        "x",
        "a" * 3000,
        [],
        {},
        [[]],
        {"part": {}},
        {"a": 1},
        [None],
        "evil:f",
        "\0",
    ]
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key, out = chance.choice(list(value)), dict(value)
        act = chance.random()
        if act < 0.1:
            del out[key]
        elif act < 0.2:
            out[chance.choice([None, 1, True, "other", ""])] = out.pop(key)
        else:
            out[key] = strange(chance, value[key])
        return out
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], strange(chance, value[at]), *value[at + 1 :]]
    return chance.choice(odd)


# -- what is fed with them: a function from an input to whatever the command line would do -------------------------------------


class Home:
    """A folder with one small run in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, path / "run"
        from anypo.run.session import train

        small = {"control.prompts": 2, "control.samples": 2, "generate.max_new": 4}
        train("grpo", "tiny", "chain_sum", set=small, steps=3, sft_steps=0, eval_size=4, eval_every=1, out=self.run)
        self.good = {
            file: file.read_bytes() for file in self.run.rglob("*") if file.is_file() and file.stat().st_size < 10**6
        }

    def commands(self, chance: random.Random) -> str:
        return (
            f"{chance.choice(PATHS)}={mixed(chance, NASTY, WORDS)}"
            if chance.random() < 0.9
            else mixed(chance, NASTY, PATHS)
        )


def settings(home: Home, chance: random.Random) -> Callable[[], None]:
    """`anypo train --set …`"""
    from anypo.cli.runs.train import train

    given = [home.commands(chance) for _ in range(chance.choice((1, 1, 2)))]
    return lambda: train(model="tiny", set_=given, dry_run=True)


def algorithms(home: Home, chance: random.Random) -> Callable[[], None]:
    """`anypo train --config FILE`"""
    from anypo.algorithm import Algorithm
    from anypo.cli.runs.train import train

    file, good = home.path / "algorithm.yaml", Algorithm().dump()
    if chance.random() < 0.6:
        content = yaml.safe_dump(strange(chance, strange(chance, good)), allow_unicode=True).encode()
    else:
        content = damaged(chance, yaml.safe_dump(good).encode())
    file.write_bytes(content)
    return lambda: train(model="tiny", config=file, dry_run=True)


def options(home: Home, chance: random.Random) -> Callable[[], None]:
    """`anypo train --task … --task-set …`"""
    from anypo.cli.runs.train import train

    given = f"{chance.choice(OPTIONS)}={mixed(chance, NASTY, WORDS)}" if chance.random() < 0.9 else mixed(chance, NASTY)
    task = chance.choice(["chain_sum", "sums", "CartPole-v1", mixed(chance, NASTY, WORDS)])
    return lambda: train(model="tiny", task=task, task_set=[given], dry_run=True)


def commands(home: Home, chance: random.Random) -> Callable[[], None]:
    """Words of `compare`, `train`, `systems`, `estimators`, `verify`, `solve`."""
    from anypo.cli.methods.estimators import _integers, _settings
    from anypo.cli.methods.solve import solve
    from anypo.cli.methods.systems import list_systems, show
    from anypo.cli.methods.verify import verify
    from anypo.cli.options import roles
    from anypo.cli.runs.train import train
    from anypo.compare.plan import Budget, contenders, settings
    from anypo.compare.vary import Axis

    word = lambda: mixed(chance, NASTY, WORDS, PATHS)
    levels = lambda: f"{chance.choice(['trust', 'credit', *PATHS])}={word()},{word()}"
    axis, one, two, three = levels(), word(), word(), word()
    return chance.choice(
        [
            lambda: contenders(["grpo"], "tiny", [Axis.parse(axis)], {}, ["chain_sum"]),
            lambda: contenders([one, two], "tiny", (), {three: two}),
            lambda: settings("tiny", [one], Budget.parse(f"tokens={two}")),
            lambda: Budget.parse(one),
            lambda: roles([f"{one}={two}"]),
            lambda: train(system=one, dry_run=True),
            lambda: train(model="tiny", model_as=[f"judge={one}"], dry_run=True),
            lambda: train(model="tiny", reward=one, device=two, dry_run=True),
            lambda: train(model=one, dtype=two, init=three, dry_run=True),
            lambda: train(model="tiny", config=Path(one or "."), dry_run=True),
            lambda: show(one),
            lambda: list_systems(one, family=two, kind=three),
            lambda: _settings(one, two, three, "single", 0.0, "sampler"),
            lambda: _integers(one, "--group", 1, 64),
            lambda: verify([f"no {one}"]),
            lambda: solve(one, set_=[two]),
        ]
    )


def queries(home: Home, chance: random.Random) -> Callable[[], None]:
    """`anypo rollouts RUN SQL`"""
    from anypo.cli.runs.rollouts import rollouts

    text, form = mixed(chance, QUERIES, QUERIES, NASTY), chance.choice([{"as_json": True}, {"as_csv": True}, {}])
    return lambda: rollouts(home.run, text, **form)


def folders(home: Home, chance: random.Random) -> Callable[[], None]:
    """`report`, `diagnose`, `rollouts`, `watch`, and the beginning of `resume`, for a run folder with one file damaged."""
    from anypo.cli.runs.rollouts import rollouts
    from anypo.diagnose import diagnose
    from anypo.report import page
    from anypo.run.disk.folder import RunFolder
    from anypo.run.settings.config import RunConfig
    from anypo.watch.runs import Runs

    file = chance.choice([name for name in home.good if "model" not in name.parts and "checkpoints" not in name.parts])
    good = home.good[file]
    content = damaged(chance, good)
    with contextlib.suppress(ValueError):
        if file.suffix == ".yaml" and chance.random() < 0.8:
            content = yaml.safe_dump(strange(chance, yaml.safe_load(good)), sort_keys=False).encode()
        elif file.suffix == ".json" and chance.random() < 0.8:
            content = json.dumps(strange(chance, json.loads(good))).encode()
        elif file.suffix == ".jsonl" and chance.random() < 0.8:
            lines = [json.loads(line) for line in good.decode().splitlines()]
            odd = strange(chance, lines)
            content = "".join(json.dumps(line) + "\n" for line in (odd if isinstance(odd, list) else [odd])).encode()

    def watched() -> None:
        runs = Runs([home.path])
        for entry in runs.listing()["runs"]:
            for look in (runs.detail, runs.answers, runs.diagnosis, lambda name: runs.rollouts(name, None)):
                look(str(entry["id"]))

    use: Callable[[], Any] = chance.choice(
        [
            lambda: page(RunFolder.read(home.run)),
            lambda: diagnose(home.run),
            lambda: rollouts(home.run, ""),
            lambda: rollouts(home.run, "select * from metrics"),
            lambda: RunConfig.recorded(RunFolder.read_config(home.run)).parse_tasks(),
            watched,
        ]
    )

    def look() -> None:
        file.write_bytes(content)
        try:
            use()
        finally:
            file.write_bytes(good)

    return look


def requests(home: Home, chance: random.Random) -> Callable[[], None]:
    """Bodies for the server in `anypo/engine/serve.py`."""
    from anypo.engine.serve import asked

    good = {"model": "policy", "prompt": [1, 2], "max_tokens": 4, "temperature": 1.0, "stop": ["x"], "seed": 3}
    body = (
        json.dumps(strange(chance, good)).encode()
        if chance.random() < 0.6
        else damaged(chance, json.dumps(good).encode())
    )
    return lambda: asked(body, "policy", 100, 64) and None


CATEGORIES: dict[str, Callable[[Home, random.Random], Callable[[], None]]] = {
    "settings": settings,
    "algorithms": algorithms,
    "options": options,
    "commands": commands,
    "requests": requests,
    "queries": queries,
    "folders": folders,
}


# -- counting ------------------------------------------------------------------------------------------------------------------


def place(error: BaseException) -> str:
    """The kind of an exception and the last line of the library that led to it."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}anypo{os.sep}" in f.filename]
    where = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}" if own else "outside"
    return f"{type(error).__name__} at {where}"


def attempt(work: Callable[[], None]) -> str:
    """'accepted', 'refused', or what went wrong."""
    began = time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work()
        outcome = "accepted"
    except UserError as error:
        outcome = "refused" if len(str(error)) < 2500 else f"a sentence of {len(str(error))} characters"
    except (Interrupted, typer.Exit, SystemExit):
        outcome = "refused"
    except OSError as error:  # the command line says these in a sentence
        outcome = "refused" if error.errno is not None else place(error)
    except Exception as error:
        outcome = place(error)
    return f"more than {SLOW:g} s" if time.process_time() - began > SLOW else outcome


def category(name: str, home: Home, each: int, until: float) -> dict[str, Any]:
    """Counts of one category; at most `each` inputs and until a point in time. What failed is told with its seed."""
    counts: collections.Counter[str] = collections.Counter()
    began = time.process_time()
    first: dict[str, int] = {}
    for number in range(each):
        if time.monotonic() > until:
            break
        outcome = attempt(CATEGORIES[name](home, random.Random(f"{name}:{number}")))
        counts[outcome] += 1
        first.setdefault(outcome, number)
    failed = {what: count for what, count in counts.items() if what not in ("accepted", "refused")}
    for what, count in failed.items():
        print(f"  {name}: {count} × {what}; the first: --one {name}:{first[what]}", flush=True)
    return {
        "inputs": sum(counts.values()),
        "refused": counts["refused"],
        "accepted": counts["accepted"],
        "failed": failed,
        "seconds": round(time.process_time() - began, 1),
    }


@contextlib.contextmanager
def home() -> Iterator[Home]:
    """A home in a temporary folder, which is also where the process stands meanwhile."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        yield Home(Path(folder))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--each", type=int, default=1000, help="inputs of a category")
    options.add_argument(
        "--seconds", type=float, default=1e9, help="stop in time; every category gets an equal share of what is left"
    )
    options.add_argument("--only", default=",".join(CATEGORIES), help="categories, comma-separated")
    options.add_argument("--one", default="", help="CATEGORY:NUMBER once, with its traceback")
    options.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    given = options.parse_args()
    with home() as place_:
        if given.one:
            CATEGORIES[given.one.partition(":")[0]](place_, random.Random(given.one))()
            return 0
        names, end = given.only.split(","), time.monotonic() + given.seconds
        found = {}
        for number, name in enumerate(names):
            share = (end - time.monotonic()) / (len(names) - number)
            found[name] = category(name, place_, given.each, time.monotonic() + share)
            print(
                f"{name:12} "
                + ", ".join(f"{found[name][key]} {key}" for key in ("inputs", "refused", "accepted", "seconds")),
                flush=True,
            )
    if given.record:
        RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return int(any(counts["failed"] for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
