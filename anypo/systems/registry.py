"""The registry of named methods: compositions with a source, no logic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anypo.algorithm import Algorithm
from anypo.errors import unknown
from anypo.parts import folder

SYSTEMS: dict[str, System] = {}


@dataclass(frozen=True)
class System:
    """A named method. `description` is its docstring: what it changes against its base, then the equations in words.

    family: the folder its module lies in. excuses: guarantees it does not give (tests/guarantees), each with the reason.
    needs: settings without which it cannot be built, with values that a test can use.
    """

    name: str
    build: Callable[[], Algorithm]
    title: str
    paper: str
    family: str
    base: str
    description: str
    excuses: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)

    def algorithm(self) -> Algorithm:
        """The composition with the published defaults."""
        return self.build().replace(name=self.name)


def system(
    name: str,
    *,
    title: str = "",
    paper: str = "",
    base: str = "",
    excuses: Mapping[str, str] | None = None,
    needs: Mapping[str, Any] | None = None,
) -> Callable[[Callable[[], Algorithm]], Callable[[], Algorithm]]:
    """Register a function without arguments that returns the method's `Algorithm`."""

    def register(build: Callable[[], Algorithm]) -> Callable[[], Algorithm]:
        if name in SYSTEMS:
            raise ValueError(f"two systems are named '{name}'")
        text = inspect.cleandoc(build.__doc__ or "")
        SYSTEMS[name] = System(name, build, title or name, paper, folder(build), base, text, excuses or {}, needs or {})
        return build

    return register


def find(name: str) -> System:
    """The system of that name; `UserError` with the nearest spelling otherwise."""
    if name not in SYSTEMS:
        raise unknown("system", name, SYSTEMS, "`anypo systems list` shows all.")
    return SYSTEMS[name]
