"""Gymnasium environments by name, without loading any."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anypo.errors import UserError, unknown

SPELLED = re.compile(r"([\w.-]+/)?[\w.-]+-v\d+")


def is_environment(name: str | None) -> bool:
    """Whether `name` is spelled like the id of a Gymnasium environment (``CartPole-v1``, ``ALE/Pong-v5``)."""
    return name is not None and SPELLED.fullmatch(name) is not None


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked mapping of an environment and its options (those of `gymnasium.make`). `UserError` with the nearest spelling."""
    import gymnasium

    try:
        gymnasium.spec(name)
    except gymnasium.error.Error:
        raise unknown("environment", name, list(gymnasium.registry)) from None
    if "render_mode" in options:
        raise UserError(f"task '{name}': a run renders nothing; leave render_mode out")
    return {"name": name, **options}
