"""The registry of named methods: compositions with a source, no logic."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from anypo.algorithm import Algorithm
from anypo.errors import unknown

SYSTEMS: dict[str, System] = {}


@dataclass(frozen=True)
class System:
    """A named method. `description` is its docstring: what it changes against its base, then the equations in words."""

    name: str
    build: Callable[[], Algorithm]
    title: str
    paper: str
    family: str
    base: str
    description: str

    def algorithm(self) -> Algorithm:
        """The composition with the published defaults."""
        return self.build().replace(name=self.name)


def system(
    name: str, *, title: str = "", paper: str = "", family: str = "llm", base: str = ""
) -> Callable[[Callable[[], Algorithm]], Callable[[], Algorithm]]:
    """Register a function without arguments that returns the method's `Algorithm`."""

    def register(build: Callable[[], Algorithm]) -> Callable[[], Algorithm]:
        if name in SYSTEMS:
            raise ValueError(f"two systems are named '{name}'")
        SYSTEMS[name] = System(name, build, title or name, paper, family, base, inspect.cleandoc(build.__doc__ or ""))
        return build

    return register


def find(name: str) -> System:
    """The system of that name; `UserError` with the nearest spelling otherwise."""
    if name not in SYSTEMS:
        raise unknown("system", name, SYSTEMS, "`anypo systems list` shows all.")
    return SYSTEMS[name]
