"""The report: what a run was, what it did, and what the numbers mean, as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

from anypo.files import replace_text
from anypo.report.page import page
from anypo.run.disk.folder import RunFolder


def write_report(run: Path | str, output: Path | str | None = None) -> Path:
    """Write the report of the run folder `run` to `output` (default ``<run>/report.html``) and return its path.

    Works for a run in any state: running, killed, without evaluations, without a single step. Raises `UserError` when there
    is no run at `run`, a file in it is damaged, or the output cannot be written.
    """
    folder = RunFolder.read(run)
    path = Path(output) if output is not None else folder.path / "report.html"
    replace_text(path, page(folder))
    return path


__all__ = ["page", "write_report"]
