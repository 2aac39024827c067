"""Claims of the systems: every module of this package whose name is not one of the machinery's registers some."""

from __future__ import annotations

import importlib
import pkgutil

from anypo.claims.base import CLAIMS, Claim, ClaimRun, Outcome, Verdict, claim, find

MACHINERY = frozenset({"base", "controlbeds", "testbeds", "record", "table", "verify"})


def load() -> dict[str, Claim]:
    """Import every claims module and return the registry."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in MACHINERY:
            importlib.import_module(f"{__name__}.{module.name}")
    return CLAIMS


__all__ = ["CLAIMS", "Claim", "ClaimRun", "Outcome", "Verdict", "claim", "find", "load"]
