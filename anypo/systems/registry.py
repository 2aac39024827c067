"""The registry of named methods: compositions with a source, no logic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anypo.algorithm import Algorithm
from anypo.parts import folder
from anypo.plugins import look_up, register

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

    def known(build: Callable[[], Algorithm]) -> Callable[[], Algorithm]:
        text = inspect.cleandoc(build.__doc__ or "")
        about = System(name, build, title or name, paper, folder(build), base, text, excuses or {}, needs or {})
        register(SYSTEMS, "system", name, about, build)
        return build

    return known


def find(name: str) -> System:
    """The system of that name; `UserError` with the nearest spelling otherwise."""
    return look_up(SYSTEMS, "system", name, "`anypo systems list` shows all.")
