"""Tasks known by name: short names of datasets, the library's own worlds, and those of plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anypo.errors import UserError
from anypo.plugins import options, plain, register
from anypo.tasks.base import Environment, Problem, Task
from anypo.tasks.code import exercises
from anypo.tasks.text import generators
from anypo.tasks.text.options import read
from anypo.worlds import calculator, functions, guess, screens, span

ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sums": (
        "basic_arithmetic",
        {
            "operators": ["+"],
            "min_terms": 2,
            "max_terms": 2,
            "min_digits": 1,
            "max_digits": 2,
            "allow_parentheses": False,
            "allow_negation": False,
        },
    ),
}
"""Short names for a dataset with a configuration; further options come on top."""


@dataclass(frozen=True)
class Named:
    """A task known by name. parse: options, checked and with the key ``name``, before anything heavy is loaded (`UserError`);
    load: the task with such options; maker: the function or class it was registered from."""

    parse: Callable[[Mapping[str, Any]], dict[str, Any]]
    load: Callable[[Mapping[str, Any]], Task]
    maker: Any = None


GIVEN = "given-"
"""How the names of what a run is given as Python objects begin. In another process there is nothing under them."""

TASKS: dict[str, Named] = {
    guess.NAME: Named(guess.parse, guess.load),
    exercises.NAME: Named(exercises.parse, exercises.load),
    calculator.NAME: Named(calculator.parse, calculator.load),
    span.NAME: Named(span.parse, span.load),
    screens.NAME: Named(screens.parse, screens.load),
    functions.NAME: Named(functions.parse, functions.load),
}

Factory = TypeVar("Factory", bound=Callable[..., Task])


def task(name: str) -> Callable[[Factory], Factory]:
    """Register a factory: `anypo train --task name` calls it with the options as keyword arguments.

    The arguments' names, types and defaults are what ``--task-set`` is checked against. Raises `UserError` for a name that
    is taken or could be a file.
    """

    def known(factory: Factory) -> Factory:
        fields = options(factory)

        def parse(given: Mapping[str, Any]) -> dict[str, Any]:
            read(fields, name, given)
            return {"name": name, **given}

        def load(given: Mapping[str, Any]) -> Task:
            values = read(fields, name, given)
            return factory(**{field: getattr(values, field) for field in fields.model_fields})

        register_task(name, parse, load, maker=factory)
        return factory

    return known


def register_task(
    name: str,
    parse: Callable[[Mapping[str, Any]], dict[str, Any]],
    load: Callable[[Mapping[str, Any]], Task],
    maker: Any = None,
) -> None:
    """Make a task known by name from its two functions (see `Named`); `maker` is who to name when the name is taken twice."""
    plain("task", name)
    if name in ALIASES or name in generators.names():
        raise UserError(
            f"two tasks are named '{name}': a dataset of reasoning-gym and one of {load.__module__}; rename one"
        )
    register(TASKS, "task", name, Named(parse, load, maker or load), maker or load)


def made(name: str, factory: Callable[..., Any], *arguments: Any, **keywords: Any) -> Task:
    """What the factory of task `name` returns; `UserError` when it raises or gives no `anypo.tasks.base.Task`."""
    try:
        task = factory(*arguments, **keywords)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task '{name}' could not be made: {type(error).__name__}: {error}") from None
    members = ("name", "weights", "outcome", "train", "heldout", "environment")
    missing = [member for member in members if not hasattr(task, member)]
    if missing:
        raise UserError(f"task '{name}' is no task: it has no {', '.join(missing)} (see anypo.tasks.base.Task)")
    return task  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Episodes:
    """A task of problems that are made one by one and played in an environment. Satisfies `anypo.tasks.base.Task`.

    problem: the problem number n, a different one for every n >= 0; the first `n_heldout` numbers are held out, the next
    `size` are for training. environment: called with a problem, gives its episode. outcome: the reward component that says right
    or wrong; weights: of the components in the reward (default: of the outcome, 1).
    """

    name: str
    problem: Callable[[int], Problem]
    environment: Callable[[Problem], Environment]
    outcome: str = "correct"
    weights: Mapping[str, float] = field(default_factory=dict)
    size: int = 10_000
    n_heldout: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", dict(self.weights) or {self.outcome: 1.0})

    def __len__(self) -> int:
        return self.size

    def train(self, index: int) -> Problem:
        """Training problem `index`, 0 <= index < len(task); IndexError otherwise."""
        return self.problem(self.n_heldout + _within(index, self.size))

    def heldout(self, index: int) -> Problem:
        """Held-out problem `index`, 0 <= index < n_heldout; IndexError otherwise."""
        return self.problem(_within(index, self.n_heldout))

    def describe(self) -> dict[str, Any]:
        """Provenance: who makes the problems and who judges them."""
        return {
            "name": self.name,
            "source": said(self.problem),
            "rewards": [{"name": name, "verifier": said(self.environment)} for name in self.weights],
            "outcome": self.outcome,
        }


def said(maker: Any) -> str:
    """A function or class as module.name."""
    return f"{getattr(maker, '__module__', '')}.{getattr(maker, '__qualname__', type(maker).__name__)}"


def _within(index: int, size: int) -> int:
    if not 0 <= index < size:
        raise IndexError(index)
    return index
