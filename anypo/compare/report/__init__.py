"""The report of a comparison: one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anypo.compare.report.page import page
from anypo.files import replace_text

if TYPE_CHECKING:
    from anypo.compare.comparison import Comparison


def write_report(found: Comparison, output: Path | None = None) -> Path:
    """Write the report of a comparison (default ``report.html`` in its folder) and return its path."""
    path = output or found.path / "report.html"
    replace_text(path, page(found))
    return path


__all__ = ["page", "write_report"]
