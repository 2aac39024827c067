"""Claims of the systems: every module below this package may register some."""

from __future__ import annotations

from anypo import parts
from anypo.claims.base import CLAIMS, Claim, ClaimRun, Outcome, Verdict, claim, find


def load() -> dict[str, Claim]:
    """Import every module and return the registry."""
    parts.load(__name__)
    return CLAIMS


__all__ = ["CLAIMS", "Claim", "ClaimRun", "Outcome", "Verdict", "claim", "find", "load"]
