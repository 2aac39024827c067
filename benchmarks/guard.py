"""The regression guard: the recorded factors over the peers against their floors. Ratios only, never times."""

from __future__ import annotations

from typing import Any

FLOORS = {
    ("step", "trl"): 3.5,
    ("step-shared-prefix", "trl"): 6.0,
    ("step-tiny", "trl"): 1.1,
    ("decode-64", "transformers generate"): 2.0,
    ("decode-64", "vllm"): 1.3,
    ("rollout-64", "transformers generate"): 5.0,
    ("rollout-64", "transformers continuous"): 3.3,
    ("rollout-64", "vllm"): 1.1,
    ("rollout-128", "transformers generate"): 7.0,
    ("rollout-128", "transformers continuous"): 3.5,
    ("rollout-128", "vllm"): 1.1,
}
"""Least factor (row, peer): how many times slower the peer must be per generated token, at the low end of the measured range."""

MEMORY = {("step", "trl"): 0.4}
"""Most of the peer's peak memory that anypo may take."""


def problems(results: dict[str, Any]) -> list[str]:
    """One sentence for every recorded figure that lies on the wrong side of its bound; rows and peers not measured are skipped."""
    found = []
    for (row, peer), floor in FLOORS.items():
        slower = results.get(row, {}).get(peer, {}).get("times_slower")
        if slower and slower["low"] < floor:
            found.append(f"{row}: {peer} is only {slower['low']:.2f}x slower per token; the floor is {floor}x")
    for (row, peer), most in MEMORY.items():
        ours, theirs = (results.get(row, {}).get(side, {}).get("peak_gb") for side in ("anypo", peer))
        if ours and theirs and ours / theirs > most:
            found.append(f"{row}: anypo takes {ours / theirs:.2f} of {peer}'s peak memory; the bound is {most}")
    return found
