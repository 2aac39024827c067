"""The four rungs of a system (docs/claims.md): what has been shown of it, and what has not, from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HOLDS: Mapping[str, frozenset[str]] = {
    "acts": frozenset({"acts", "no base", "by design"}),
    "claim": frozenset({"reproduced", "direction_only", "not_reproduced"}),
    "real": frozenset({"ran"}),
}
"""What a rung must say to hold; *exact* holds where there is a test, and a verdict whichever way it fell, if the bed could tell."""


def rungs(kind: str, entry: Mapping[str, Any], tests: Sequence[str]) -> dict[str, Any]:
    """``exact``: names of tests; ``acts``: acts, still, refused, failed, no base (nothing to compare it with; its weights move), by
    design (it is to be still, for the reason that its registration gives) or not run; ``claim``: the verdict, outdated where the claim
    is another by now, or not run; ``real``: ran, refused, failed or not run. `kind`: the system's; `entry`: its record."""
    acts, real = entry.get("acts"), entry.get("real")
    return {
        "exact": list(tests),
        "acts": _acted(acts) if acts else "not run" if kind == "method" else "no base",
        "claim": "outdated" if entry.get("outdated") else entry.get("verdict", "not run"),
        "real": ("ran" if real["ran"] else _reason(real)) if real else "not run",
    }


def unfinished(found: Mapping[str, Any]) -> list[str]:
    """The rungs that do not hold."""
    lacking = [rung for rung, holds in HOLDS.items() if found[rung] not in holds]
    return lacking if found["exact"] else ["exact", *lacking]


def _acted(entry: Mapping[str, Any]) -> str:
    if entry["acts"] is None:
        return _reason(entry) or "no base"
    return "acts" if entry["acts"] else "still"


def _reason(entry: Mapping[str, Any]) -> str:
    """``refused``, ``failed`` or ``by design``, as the record's sentence begins; '' for another."""
    begins = str(entry["said"]).partition(":")[0]
    return begins if begins in ("refused", "failed", "by design") else ""
