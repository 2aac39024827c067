"""Where the commands print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED = 200
"""Columns where the output is no terminal: files and pipes have no edge, so tables keep their lines whole."""


def new_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, as COLUMNS says, or of `PIPED` columns."""
    from rich.console import Console

    found = Console(stderr=stderr)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PIPED
    return found
