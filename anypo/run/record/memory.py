"""Memory of this process, in GiB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil


def resident_gb() -> float:
    """Resident at this moment."""
    return float(psutil.Process().memory_info().rss) / 2**30


def peak_gb() -> float:
    """The most that was resident since the process began."""
    try:  # Linux: getrusage would count what the parent held before it became this program
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
