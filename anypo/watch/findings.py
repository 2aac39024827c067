"""The diagnosis of a run as plain data."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def findings(run: Path) -> dict[str, Any]:
    """`findings`: what each detector of `anypo.diagnose` says about the run (`Finding.plain`), the worst first. `known` is
    false where there is no such package."""
    try:
        diagnose = importlib.import_module("anypo.diagnose").diagnose
    except ModuleNotFoundError:
        return {"known": False, "findings": []}
    return {"known": True, "findings": [found.plain() for found in diagnose(run)]}
