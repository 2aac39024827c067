"""How long each room took in a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from anypo.context import Context


@contextmanager
def timed(room: str, context: Context) -> Iterator[None]:
    """Add the seconds spent inside to ``time/<room>``."""
    began = time.perf_counter()
    yield
    context.add(f"time/{room}", time.perf_counter() - began)
