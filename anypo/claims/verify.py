"""Running claims: each in its own process when there are several, and what comes of it as plain data."""

from __future__ import annotations

import importlib
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from anypo import __version__
from anypo.claims import load
from anypo.claims.base import CLAIMS, Claim, ClaimRun, find
from anypo.errors import UserError, unknown
from anypo.plugins import chosen, plugin


def choose(names: Sequence[str], family: str | None, every: bool) -> list[Claim]:
    """The claims asked for, in order of name. `UserError` for an unknown name or family, or when nothing is asked for."""
    load()
    if family is not None:
        families = {claim.family for claim in CLAIMS.values()}
        if family not in families:
            raise unknown("claim family", family, families)
    chosen = {name: find(name) for name in names}
    if every or family is not None:
        chosen |= {n: c for n, c in CLAIMS.items() if family in (None, c.family)}
    if not chosen:
        raise UserError("name the systems to verify, or use --family or --all; `anypo verify --list` shows every claim")
    return [chosen[name] for name in sorted(chosen)]


def run(claim: Claim, quick: bool = False) -> dict[str, Any]:
    """The entry of one claim: what was published, what was measured, and how. A claim that raises is an error, never a verdict."""
    from anypo.systems import SYSTEMS

    began, busy = time.perf_counter(), time.process_time()
    work = ClaimRun(claim.run_seeds(quick), quick)
    system = SYSTEMS.get(claim.name)
    entry: dict[str, Any] = {
        "name": claim.name,
        "family": claim.family,
        "base_system": claim.base,
        "paper": system.paper if system else "",
        "published": claim.published,
        "stand_in": claim.stand_in,
        "what": claim.description,
        "quick": quick,
    }
    try:
        entry |= claim.run(work).plain()
    except Exception as error:
        entry |= {
            "verdict": "error",
            "error": " ".join(f"{type(error).__name__}: {error}".split()),
            "traceback": traceback.format_exc(limit=-3),
        }
    entry["seconds"] = round(time.perf_counter() - began, 2)
    entry["cpu_seconds"] = round(time.process_time() - busy, 2)
    entry["machine"] = {"anypo": __version__, "python": platform.python_version(), "processor": platform.machine()}
    entry["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    return entry


def run_all(claims: Sequence[Claim], jobs: int = 1, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Entries in the order in which they are done."""
    _single_threaded()  # tensors are tiny: threads would only wait for each other
    if jobs <= 1 or len(claims) <= 1:
        yield from (run(claim, quick) for claim in claims)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(jobs, len(claims)), get_context("spawn"), _begin, (chosen(),)) as pool:
        slowest_first = sorted(claims, key=lambda claim: -claim.seconds)
        futures = [pool.submit(_by_name, claim.run.__module__, claim.name, quick) for claim in slowest_first]
        for future in as_completed(futures):
            yield future.result()


def _by_name(module: str, name: str, quick: bool) -> dict[str, Any]:
    importlib.import_module(module)
    return run(find(name), quick)


def _begin(plugins: Sequence[str]) -> None:
    """What a process needs before its first claim."""
    _single_threaded()
    for name in plugins:
        plugin(name)


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)
