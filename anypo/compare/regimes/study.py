"""Running methods under circumstances on the exact bed: every run is a file of its own, so a study goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from anypo import __version__
from anypo.algorithm import Algorithm
from anypo.compare.plan import method_of
from anypo.compare.regimes.conditions import REGIMES, Regime, bed_of, fitting
from anypo.errors import brief
from anypo.exact.bed import train
from anypo.files import replace_text
from anypo.plugins import chosen, plugin
from anypo.systems import find

RATES = (0.05, 0.2)
"""Learning rates, of which every method gets its best under every circumstance, by runs whose seeds are not those reported."""

TRIALS = 2
"""Runs of a learning rate that decide on it."""

FIRST_TRIAL = 1_000
"""Their first seed; those of the runs that are reported begin at 0."""

STEPS = 60
"""Steps of a run."""


@dataclass(frozen=True)
class Job:
    """One run: the algorithm as plain data, under a regime, at a rate, with a seed."""

    method: str
    regime: str
    rate: float
    seed: int
    algorithm: str

    @property
    def key(self) -> str:
        """What the run depends on, in a few letters."""
        about = [__version__, STEPS, self.regime, self.rate, self.seed, self.algorithm]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Study:
    """What was run. records: by method, regime and seed what became of the run: its score (``area``, the mean exact reward over it),
    that at its end (``final``) and a fingerprint of its curve (``print``); ``error`` in their place where it ended in one. rates: the
    learning rate, by method and regime. refused: why a method was not run under a regime."""

    methods: tuple[str, ...]
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    records: Mapping[tuple[str, str, int], Mapping[str, Any]]
    rates: Mapping[tuple[str, str], float]
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)


def study(
    methods: Sequence[str],
    regimes: Sequence[Regime],
    out: Path,
    seeds: int = 6,
    jobs: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Run every method (a system's name or an algorithm file) under every regime: each rate of `RATES` on `TRIALS` seeds, the better
    one on `seeds` others. Runs that are in the folder `out` are not repeated. `UserError` for an unknown method."""
    algorithms = {name: _algorithm(name) for name in methods}
    refused = {(n, regime): why for n, a in algorithms.items() for regime, why in fitting(a, regimes).items()}
    pairs = [(n, r.name) for n in algorithms for r in regimes if (n, r.name) not in refused]
    plain = {name: json.dumps(algorithm.dump(), sort_keys=True) for name, algorithm in algorithms.items()}
    total = len(pairs) * (len(RATES) * TRIALS + seeds)
    out.mkdir(parents=True, exist_ok=True)
    done: dict[Job, Mapping[str, Any]] = {}

    def run(wanted: list[Job]) -> None:
        for job, record in _all(wanted, out, jobs):
            done[job] = record
            progress(len(done), total)

    trials = range(FIRST_TRIAL, FIRST_TRIAL + TRIALS)
    run([Job(n, r, rate, seed, plain[n]) for n, r in pairs for rate in RATES for seed in trials])
    earned = {
        (n, r): [sum(_area(done[Job(n, r, rate, s, plain[n])]) for s in trials) for rate in RATES] for n, r in pairs
    }
    rates = {pair: RATES[max(range(len(RATES)), key=lambda k: earned[pair][k])] for pair in pairs}
    last = [Job(n, r, rates[n, r], seed, plain[n]) for n, r in pairs for seed in range(seeds)]
    run(last)
    records = {(job.method, job.regime, job.seed): done[job] for job in last}
    return Study(tuple(algorithms), tuple(r.name for r in regimes), tuple(range(seeds)), records, rates, refused)


def _area(record: Mapping[str, Any]) -> float:
    """What a run earned: nothing where it was lost."""
    return float(record.get("area") or 0.0)


def _algorithm(name: str) -> Algorithm:
    """A system, or the algorithm of a file under the file's name; no preset: rates are chosen here."""
    if name.endswith((".yaml", ".yml")):
        return method_of(name).replace(name=Path(name).stem)
    return find(name, "method").algorithm()


def _all(jobs: list[Job], out: Path, workers: int) -> Iterator[tuple[Job, Mapping[str, Any]]]:
    """The records of all jobs, as they are done; those that are in the folder first."""
    open_ = []
    for job in jobs:
        path = out / f"{job.key}.json"
        if path.is_file():
            yield job, json.loads(path.read_text())
        else:
            open_.append(job)
    if workers == 1 or len(open_) < 2:
        for job in open_:
            yield job, _kept(out, job, measured(job))
        return
    with ProcessPoolExecutor(min(workers, len(open_)), get_context("spawn"), _begin, (chosen(),)) as pool:
        waiting = {pool.submit(measured, job): job for job in open_}
        for future in as_completed(waiting):
            yield waiting[future], _kept(out, waiting[future], future.result())


def _kept(out: Path, job: Job, record: dict[str, Any]) -> dict[str, Any]:
    replace_text(out / f"{job.key}.json", json.dumps(record))
    return record


def _begin(plugins: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for name in plugins:
        plugin(name)


def measured(job: Job) -> dict[str, Any]:
    """One run. A run that ends in an error has an ``error`` in the place of numbers: it is lost, not left out."""
    about: dict[str, Any] = {"method": job.method, "regime": job.regime, "rate": job.rate, "seed": job.seed}
    regime = REGIMES[job.regime]
    try:
        algorithm = regime.put(Algorithm.from_dict(json.loads(job.algorithm)))
        curves = train(algorithm, bed_of(regime, job.rate), STEPS, job.seed)
    except Exception as error:  # a method that breaks under a circumstance has told something about it
        return about | {"error": brief(error), "area": None, "final": None}
    print_ = hashlib.sha256(curves.value.round(6).tobytes()).hexdigest()[:16]
    return about | {"area": curves.area, "final": curves.final, "start": float(curves.value[0]), "print": print_}


__all__ = ["RATES", "STEPS", "TRIALS", "Job", "Study", "measured", "study"]
