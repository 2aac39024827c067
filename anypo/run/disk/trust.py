"""A run folder is data, whoever wrote it. What its config.yaml names and does not hold (functions, plugins, servers) is used only
where the user began that very run on this machine, or says so (``--trust``).

What the user began is known by a mark outside the folder: an empty file in the user's state directory
(``$XDG_STATE_HOME/anypo/trusted``, by default below ``~/.local/state``) whose name is the SHA-256 of the configuration. It is
written for configurations that name anything only. Moving or renaming a folder keeps the trust; another machine, another user or
another configuration has none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from anypo import plugins
from anypo.callables import is_callable_name, of_the_standard_library
from anypo.errors import UserError, shown
from anypo.reading import yaml_value

DEEPEST = 50
"""Levels of a configuration that are looked through; more is refused, for no run of ours writes that."""


def remember(config: Mapping[str, Any]) -> None:
    """The user begins a run with `config`: what it names is trusted from now on."""
    if next(named(config), None) is None:
        return
    with suppress(OSError, RuntimeError):  # without a home the run works as well, and --trust resumes it
        place = _marks()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (place / _digest(config)).touch(mode=0o600)


def trusted(config: Mapping[str, Any]) -> bool:
    """Whether everything that `config` names may be used."""
    return next(strangers(config), None) is None


def check(config: Mapping[str, Any], trust: bool = False, unused: Collection[str] = ()) -> None:
    """Raise `UserError` naming what is not trusted. trust: the user says that it is, all but functions of the standard library.
    unused: fields of the configuration that are not made use of."""
    for where, name in strangers(config):
        if where.partition(".")[0] in unused:
            continue
        if is_callable_name(name) and of_the_standard_library(name):
            raise UserError(
                f"the run's config.yaml, {where}: {shown(name)} is of the standard library and never called"
            )
        if not trust:
            raise UserError(
                f"the run's config.yaml names what it does not hold, {where}: {shown(name)}, and it was not begun by you on "
                "this machine; if you know who wrote it and what that does, add --trust"
            )


def recall(config: Mapping[str, Any]) -> None:
    """Bring back the plugins of a run that is only looked at, where they are trusted."""
    if trusted(config):
        plugins.recall(config.get("plugins") or ())


def strangers(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where `config` names something, and what, unless it is trusted: by its mark, or a plugin that is installed or was named on
    the command line."""
    found = list(named(config))
    if not found or _known(config):
        return
    at_hand = {*plugins.chosen(), *installed()}
    for where, name in found:
        if not (where.startswith("plugins.") and (name in at_hand or name.partition(".")[0] in at_hand)):
            yield where, name


def named(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every function, plugin and server that a configuration names, with its dotted path. Texts that hold YAML are looked into,
    because options of tasks may be given so."""
    if depth > DEEPEST:
        raise UserError(
            f"the run's config.yaml is nested deeper than {DEEPEST} levels at {shown(path)}; no run writes that"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from named(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from named(item, f"{path}.{index}", depth + 1)
    elif isinstance(value, str):
        if path.startswith("plugins.") or is_callable_name(value) or value.startswith(("http://", "https://")):
            yield path, value
        elif any(mark in value for mark in ":[\"'"):
            yield from _inside(value, path, depth)


def installed() -> frozenset[str]:
    """The modules that installed packages offer as plugins."""
    found = metadata.entry_points(group=plugins.GROUP)
    return frozenset(entry.value.partition(":")[0].strip() for entry in found)


def _inside(text: str, path: str, depth: int) -> Iterator[tuple[str, str]]:
    try:
        inner = yaml_value(text)
    except ValueError:
        return
    if inner != text:
        yield from named(inner, path, depth + 1)


def _known(config: Mapping[str, Any]) -> bool:
    with suppress(OSError, RuntimeError):
        return (_marks() / _digest(config)).is_file()
    return False


def _marks() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "anypo" / "trusted"


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()).hexdigest()
