"""Diagnosis: what went wrong in a run, how one can tell, and what to change.

    findings = diagnose("runs/mine")

`anypo.diagnose.detectors` has one detector a pathology; `attribution` shows which rollouts moved the weights of a step; `probe`
asks whether the model notices that it is being tested.
"""

from __future__ import annotations

from pathlib import Path

import anypo.diagnose.detectors  # noqa: F401  (registers every detector)
from anypo.diagnose.detector import DETECTORS, Detector, Finding, examine
from anypo.diagnose.evidence import Evidence, read


def diagnose(run: Path | str) -> list[Finding]:
    """Every detector's finding about the run folder `run`, the worst first. Raises `UserError` when there is no run."""
    return examine(read(run))


__all__ = ["DETECTORS", "Detector", "Evidence", "Finding", "diagnose", "examine", "read"]
