"""Gymnasium environments and Minari data sets by name, without loading any."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo.errors import UserError, unknown

SPELLED = re.compile(r"([\w.-]+/)?[\w.-]+-v\d+")

MINARI = "minari:"
"""What the name of a data set begins with: ``minari:NAME`` in Minari's own folder, or ``minari:PATH``."""

METADATA = "metadata.json"


def is_environment(name: str | None) -> bool:
    """Whether `name` is spelled like the id of a Gymnasium environment (``CartPole-v1``, ``ALE/Pong-v5``), or names a Minari data
    set, which knows its environment."""
    return name is not None and (is_recorded(name) or SPELLED.fullmatch(name) is not None)


def is_recorded(name: str) -> bool:
    """Whether `name` names a Minari data set: ``minari:...``, or the path of a folder that holds one."""
    return name.startswith(MINARI) or (Path(name) / "data" / METADATA).is_file()


def canonical(name: str) -> str:
    """The name under which a data set is found whether or not it is still there; any other name as it is."""
    return MINARI + name if is_recorded(name) and not name.startswith(MINARI) else name


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked mapping of an environment and its options (those of `gymnasium.make`). `UserError` with the nearest spelling."""
    import gymnasium

    if "render_mode" in options:
        raise UserError(f"task '{name}': a run renders nothing; leave render_mode out")
    if is_recorded(name):
        name = canonical(name)
        check(name)
        return {"name": name, **options}
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error:
        raise unknown("environment", name, list(gymnasium.registry)) from None
    return {"name": name, **options}


def find(name: str) -> Path:
    """The folder of a data set's files. `UserError` with the nearest spelling where there is none."""
    wanted = name.removeprefix(MINARI)
    cache = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    for folder in (Path(wanted) / "data", Path(wanted), cache / wanted / "data"):
        if wanted and (folder / METADATA).is_file():
            return folder
    known = [file.parent.parent.relative_to(cache).as_posix() for file in cache.glob(f"**/data/{METADATA}")]
    raise unknown("Minari data set", wanted, known, f"It is neither in {cache} (MINARI_DATASETS_PATH) nor a folder.")


def check(name: str) -> dict[str, Any]:
    """What the data set says of itself. `UserError` where a policy of vectors cannot learn from it, before its data are read."""
    if importlib.util.find_spec("minari") is None:
        raise UserError(f"task '{name}' needs Minari; install it with: pip install 'anypo[control]'")
    file = find(name) / METADATA
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        spaces = {side: _kind(about.get(f"{side}_space")) for side in ("observation", "action")}
    except (ValueError, TypeError, AttributeError, KeyError, OSError):
        raise UserError(f"{file} is damaged (no Minari metadata); make or download the data set again") from None
    if not about.get("env_spec"):
        raise UserError(f"task '{name}' does not say which environment it was recorded in; make it anew with env=...")
    if spaces["observation"] not in ("", "Box"):
        raise UserError(
            f"task '{name}' observes {spaces['observation']}; only data sets of vectors (Box) are supported"
        )
    if spaces["action"] not in ("", "Box", "Discrete"):
        raise UserError(f"task '{name}' acts with {spaces['action']}; only Box and Discrete actions are supported")
    if not about.get("total_steps"):
        raise UserError(f"task '{name}' holds no steps; record some episodes first")
    return dict(about)


def _kind(space: str | None) -> str:
    """The kind of a serialised space; '' where it is left to the environment."""
    return str(json.loads(space)["type"]) if space else ""
