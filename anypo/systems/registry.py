"""The registry of named systems: compositions with a source, no logic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from anypo.algorithm import ROOMS, Algorithm
from anypo.errors import UserError
from anypo.parts import folder
from anypo.plugins import look_up, register
from anypo.recipes import Recipe

Kind = Literal["method", "recipe", "procedure", "planner", "measure", "audit", "world", "study"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a system can be. A method is an `Algorithm` that trains; the others build something of their own kind."""

COMMANDS = {
    "method": "anypo train --system {name}",
    "recipe": "anypo train --system {name}",
    "measure": "anypo measure {name} RUN",
    "planner": "anypo solve {name}",
}
"""The command that runs a system, by kind."""

SYSTEMS: dict[str, System] = {}

T = TypeVar("T")


@dataclass(frozen=True)
class System:
    """A named system. `description` is its docstring: what it changes against its base, then the equations in words.

    family: the folder its module lies in. excuses: guarantees it does not give (tests/guarantees, and ``acts``: to do what its base
    would not), each with the reason. needs: settings without which it cannot be built, with values that a
    test can use. made_for: the kind of task whose values its composition states; in an environment one that was written for text is
    given a critic and an update.
    `build` returns what the kind says: an `Algorithm` (method), an `anypo.recipes.Recipe` (recipe), an `anypo.measures.Measure`
    (measure), an `anypo.exact.planning.Planner` (planner).
    """

    name: str
    build: Callable[[], Any]
    title: str
    paper: str
    family: str
    base: str
    description: str
    excuses: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "method"
    made_for: Literal["text", "actions"] = "text"

    def algorithm(self) -> Algorithm:
        """The composition with the published defaults. `UserError` for a system that is no method."""
        if self.kind != "method":
            raise UserError(f"'{self.name}' is {self.article} {self.kind}, not a training method; {self.advice}")
        return self.build().replace(name=self.name)  # type: ignore[no-any-return]

    def recipe(self) -> Recipe:
        """The stages with the published defaults. `UserError` for a system that is no recipe."""
        if self.kind != "recipe":
            raise UserError(f"'{self.name}' is {self.article} {self.kind}, not a recipe; {self.advice}")
        return self.build().replace(name=self.name)  # type: ignore[no-any-return]

    @property
    def article(self) -> str:
        return "an" if self.kind[0] in "aeiou" else "a"

    @property
    def advice(self) -> str:
        """How to run it, or where to read about it."""
        command = COMMANDS.get(self.kind)
        return f"run it with: {command.format(name=self.name)}" if command else f"see: anypo systems show {self.name}"

    @property
    def bed(self) -> str:
        """What a method learns from: ``tokens`` (decisions of rollouts), ``transitions``, or the ``fitness`` of whole episodes."""
        provided = frozenset().union(*(part.provided() for _, part in self.algorithm().walk()))
        return next((bed for bed in ("transitions", "fitness") if bed in provided), "tokens")

    def rooms(self) -> frozenset[str]:
        """The rooms in which a method differs from its base (from the default composition, if it has no base here); none for
        other kinds."""
        if self.kind != "method":
            return frozenset()
        known = self.base in methods() and self.base != self.name
        ours, base = self.algorithm(), SYSTEMS[self.base].algorithm() if known else Algorithm()
        return frozenset(room for room in ROOMS if getattr(ours, room) != getattr(base, room))


def methods(bed: str | None = None) -> dict[str, System]:
    """The systems that are an `Algorithm`: everything that trains, compares and estimates runs over these. `bed`: only those whose
    bed (`System.bed`) it is."""
    found = {name: entry for name, entry in SYSTEMS.items() if entry.kind == "method"}
    return found if bed is None else {name: entry for name, entry in found.items() if entry.bed == bed}


def system(
    name: str,
    *,
    title: str = "",
    paper: str = "",
    base: str = "",
    excuses: Mapping[str, str] | None = None,
    needs: Mapping[str, Any] | None = None,
    kind: Kind = "method",
    made_for: Literal["text", "actions"] = "text",
) -> Callable[[Callable[[], T]], Callable[[], T]]:
    """Register a function without arguments that returns what `kind` says, for a method its `Algorithm`."""

    def known(build: Callable[[], T]) -> Callable[[], T]:
        if kind not in KINDS:
            raise ValueError(f"system '{name}': there is no kind '{kind}'")
        text = inspect.cleandoc(build.__doc__ or "")
        about = System(
            name, build, title or name, paper, folder(build), base, text, excuses or {}, needs or {}, kind, made_for
        )
        register(SYSTEMS, "system", name, about, build)
        return build

    return known


def find(name: str, kind: Kind | None = None) -> System:
    """The system of that name; `UserError` with the nearest spelling otherwise, or when it is not of the `kind` asked for."""
    found = look_up(SYSTEMS, "system", name, "`anypo systems list` shows all.")
    if kind not in (None, found.kind):
        raise UserError(f"'{name}' is {found.article} {found.kind}, not the {kind} asked for; {found.advice}")
    return found
