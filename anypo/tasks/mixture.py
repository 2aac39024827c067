"""Several tasks in one: problems in given proportions, each judged by the task that posed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from anypo.errors import UserError, cut, shown
from anypo.reading import yaml_value
from anypo.tasks.base import Action, Environment, Problem, Reply, Task, restores
from anypo.tasks.environments import is_environment
from anypo.tasks.live import attempt
from anypo.tasks.text.onestep import OneStep
from anypo.tasks.text.options import as_list, read
from anypo.tasks.unlabelled import labelled

NAME = "mix"
"""The name of a mixture as a task; its option `of` lists the sources."""

FINEST = 10_000
"""Longest pattern of turns that weights may need."""


class Source(BaseModel):
    """One task of a mixture. weight: its share of the prompts, relative to the others'. name: what metrics and scores call it (else
    the task's)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1)
    task_options: dict[str, Any] = Field(default_factory=dict)
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    name: str = Field("", pattern=r"^[^/\s]*$")

    @property
    def called(self) -> str:
        return self.name or Path(self.task).stem or self.task


def is_written(task: str) -> bool:
    """Whether a text is a mixture written out, ``{mix: [...]}``, and not the name of a task."""
    return task.lstrip().startswith("{")


def spelled_out(text: str) -> Any:
    """What is written in ``{mix: [...]}``; the name of a task as it is. `UserError` where what is written is not YAML."""
    if not is_written(text):
        return text
    try:
        return yaml_value(text)
    except ValueError as error:
        raise UserError(f"the task '{cut(text)}' is no mixture in YAML, as in {{mix: [sums, gcd]}}: {error}") from None


def written(task: Any) -> Any:
    """A mixture as one line of text, which `spelled_out` understands; any other task as it is."""
    return yaml.safe_dump(task, default_flow_style=True, width=10**9).strip() if isinstance(task, Mapping) else task


def unfolded(task: Any, options: Mapping[str, Any] | None) -> tuple[Any, Mapping[str, Any] | None]:
    """The task ``{mix: [...]}`` by its name with its options; any other task as it is."""
    if not isinstance(task, Mapping) or set(task) != {NAME}:
        return task, options
    return NAME, {**(options or {}), "of": task[NAME]}


def sources(options: Mapping[str, Any]) -> list[Source]:
    """The sources that the options of a mixture list, checked. `UserError`."""
    for field in options:
        if field != "of":
            raise UserError(
                f"a mixture has the option 'of' alone, a list of tasks, and not '{field}': write it under its source"
            )
    found = []
    for entry in as_list(options.get("of", [])):
        if not isinstance(entry, (str, Mapping)):
            raise UserError(
                f"a source of a mixture is a task's name or a mapping with the key task, not {shown(entry)}"
            )
        found.append(read(Source, NAME, {"task": entry} if isinstance(entry, str) else entry))
    if len(found) < 2:
        raise UserError("a mixture has two sources or more, as in {mix: [{task: sums, weight: 2}, {task: own.jsonl}]}")
    names = [source.called for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two sources of the mixture are called '{twice}'; give each a name of its own (name: ...)")
    for source in found:
        if source.task == NAME:
            raise UserError("a mixture cannot be a source of a mixture; list its sources instead")
        if is_environment(source.task):
            raise UserError(
                f"the mixture's source '{source.called}' takes actions, not text; it cannot be mixed with others"
            )
    turns([source.weight for source in found])
    return found


def parse(options: Mapping[str, Any], inner: Callable[[str, Mapping[str, Any]], Any]) -> dict[str, Any]:
    """The options of a mixture, checked with those of its sources by `inner` (`anypo.tasks.loading.parse`). `UserError`."""
    found = sources(options)
    for source in found:
        try:
            inner(source.task, source.task_options)
        except UserError as error:
            raise UserError(f"source '{source.called}' of the mixture: {error}") from None
    return {"name": NAME, "of": [source.model_dump(exclude_defaults=True) for source in found]}


def load(options: Mapping[str, Any], inner: Callable[[str, Mapping[str, Any]], Task]) -> Mixture:
    """The mixture with every source loaded by `inner`. `UserError` for tasks that cannot be mixed."""
    found = sources(options)
    return Mixture(found, [inner(source.task, source.task_options) for source in found])


class Mixture:
    """Problems of several tasks of text, in proportion to the weights of their sources. Satisfies `anypo.tasks.base.Task`.

    Training problems follow one another in a fixed pattern of turns (`turns`), each source going through its own in order and again
    from the first, until every problem of every source has had its turn: that is one pass. Held-out problems are those of all
    sources, one of each in turn. A problem knows its `source`, whose environment plays and judges it.

    outcome: the sources' own, or ``correct`` where they call it differently. weights: of their reward components by name; where two
    sources give one name different weights, each has its own under ``SOURCE.name``, and the outcome counts by that.
    """

    scorer = "mixture"

    def __init__(self, sources: Sequence[Source], tasks: Sequence[Task]) -> None:
        self.name, self.sources, self.tasks = (
            NAME,
            tuple(sources),
            dict(zip((source.called for source in sources), tasks)),
        )
        for name, task in self.tasks.items():
            if hasattr(task, "observation") or hasattr(task, "transitions"):
                raise UserError(
                    f"the mixture's source '{name}' takes actions, not text; it cannot be mixed with others"
                )
        paired = {name: "rejected" in task.train(0).metadata for name, task in self.tasks.items() if len(task)}
        if len(set(paired.values())) > 1:
            some = next(name for name, pairs in paired.items() if pairs)
            raise UserError(
                f"the mixture's source '{some}' holds preferences, and others hold questions; train on them apart"
            )
        self.pattern = turns([source.weight for source in sources])
        self._names = list(self.tasks)
        self._each = [self.pattern.count(number) for number in range(len(self._names))]
        self._rank = [self.pattern[:at].count(number) for at, number in enumerate(self.pattern)]
        outcomes = {task.outcome for task in tasks}
        self.outcome = outcomes.pop() if len(outcomes) == 1 else "correct"
        self._judges = self._renamed()
        self.weights: Mapping[str, float] = {
            new: weight
            for name, judge in self._judges.items()
            for component, weight in self.tasks[name].weights.items()
            for new, weight in judge.weighed(component, weight)
        }

    def over(self, tasks: Mapping[str, Task]) -> Mixture:
        """The same mixture with other tasks behind its sources' names."""
        return Mixture(self.sources, [tasks[source.called] for source in self.sources])

    def _renamed(self) -> dict[str, Judge]:
        """What every source's components are called in the mixture."""
        meant: dict[str, set[float]] = {}
        common = lambda task, component: self.outcome if component == task.outcome else component
        for task in self.tasks.values():
            for component, weight in task.weights.items():
                meant.setdefault(common(task, component), set()).add(weight)
        judges = {}
        for name, task in self.tasks.items():
            new = {component: common(task, component) for component in {*task.weights, task.outcome}}
            alone = {
                component: f"{name}.{component}"
                for component, word in new.items()
                if len(meant.get(word, ())) > 1 or (word == self.outcome and component != task.outcome)
            }
            judges[name] = Judge(task, self.outcome, new | alone)
        return judges

    def __len__(self) -> int:
        rounds = max(-(-len(task) // each) for task, each in zip(self.tasks.values(), self._each))
        return rounds * len(self.pattern)

    def train(self, index: int) -> Problem:
        """Training problem `index`, 0 <= index < len(task); IndexError otherwise."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        block, at = divmod(index, len(self.pattern))
        number = self.pattern[at]
        name, place = self._names[number], block * self._each[number] + self._rank[at]
        return self._of(name, self.tasks[name].train(place % len(self.tasks[name])))

    def index(self, source: int, place: int) -> int:
        """Which training problem is number `place` of source number `source`, 0 <= place < its number of problems."""
        block, rank = divmod(place, self._each[source])
        at = [turn for turn, number in enumerate(self.pattern) if number == source][rank]
        return block * len(self.pattern) + at

    @cached_property
    def _held(self) -> list[tuple[str, int]]:
        """Source and place of every held-out problem."""
        sizes = {name: task.n_heldout for name, task in self.tasks.items()}
        return [(name, place) for place in range(max(sizes.values())) for name in sizes if place < sizes[name]]

    @property
    def n_heldout(self) -> int:
        return len(self._held)

    def heldout(self, index: int) -> Problem:
        """Held-out problem `index`, 0 <= index < n_heldout; IndexError otherwise."""
        if index < 0:
            raise IndexError(index)
        name, place = self._held[index]
        return self._of(name, self.tasks[name].heldout(place))

    @staticmethod
    def _of(name: str, problem: Problem) -> Problem:
        return dataclasses.replace(problem, source=name)

    def environment(self, problem: Problem) -> Environment:
        if problem.source not in self._judges:
            raise UserError(
                "a mixture cannot judge a problem that none of its sources posed; this method makes some of its own"
            )
        return self._judges[problem.source].environment(problem)

    @property
    def stored(self) -> bool:
        return all(getattr(task, "stored", False) for task in self.tasks.values())

    @property
    def turns(self) -> int | None:
        """Most turns of an episode, where every source says so."""
        known = [getattr(task, "turns", None) for task in self.tasks.values()]
        return None if None in known else max(filter(None, known))

    @property
    def restores(self) -> bool:
        return all(map(restores, self.tasks.values()))

    @property
    def labelled(self) -> bool:
        return all(map(labelled, self.tasks.values()))

    def describe(self) -> dict[str, Any]:
        """Provenance of every source, with its share."""
        own = {name: task.describe() for name, task in self.tasks.items()}
        return {
            "name": self.name,
            "source": ", ".join(f"{self._each[at]}/{len(self.pattern)} {name}" for at, name in enumerate(own)),
            "rewards": [
                {**dict(r), "name": f"{n}.{r.get('name', '')}"}
                for n, plain in own.items()
                for r in plain.get("rewards", ())
            ],
            "outcome": self.outcome,
            "sources": own,
        }

    def close(self) -> None:
        """Stop the worker processes of the sources, if any run."""
        for task in self.tasks.values():
            getattr(task, "close", bool)()


@dataclass(frozen=True)
class Judge:
    """The episodes of one source with the mixture's names for their reward components. outcome: the mixture's; names: new ones by the
    source's own."""

    task: Task
    outcome: str
    names: Mapping[str, str]

    def weighed(self, component: str, weight: float) -> Iterator[tuple[str, float]]:
        """The component under its name in the mixture. An outcome of another name there says right or wrong without weight."""
        yield self.names[component], weight
        if component == self.task.outcome and self.names[component] != self.outcome:
            yield self.outcome, 0.0

    def environment(self, problem: Problem) -> Environment:
        """The source's own where names are the same; one-step ones stay such, so that they are scored as a batch."""
        found = self.task.environment(problem)
        if all(old == new for old, new in self.names.items()):
            return found
        if isinstance(found, OneStep):
            return OneStep(self, problem)  # type: ignore[arg-type]
        return Renamed(found, self)  # type: ignore[return-value]  # takes the whole action

    def score(
        self, problems: Sequence[Problem], texts: Sequence[str], tokens: Sequence[int] | None = None, limit: int = 0
    ) -> list[Reply]:
        return [self.reply(own) for own in self.task.score(problems, texts, tokens, limit)]  # type: ignore[attr-defined]

    def reply(self, own: Reply) -> Reply:
        """The reply with the mixture's names."""
        rewards = {self.names.get(name, name): value for name, value in own.rewards.items()}
        if self.task.outcome in own.rewards:
            rewards[self.outcome] = own.rewards[self.task.outcome]
        return dataclasses.replace(own, rewards=rewards)


@dataclass
class Renamed:
    """An environment whose rewards have the names of a mixture."""

    environment: Environment
    judge: Judge

    def reset(self, start: Any = None) -> Any:
        return self.environment.reset() if start is None else self.environment.reset(start)  # type: ignore[call-arg]

    def step(self, action: Action) -> Reply:
        return self.judge.reply(attempt(self.environment, action))

    def __getattr__(self, name: str) -> Any:
        """What only some environments have: `snapshot`, `restores`."""
        if name in ("snapshot", "restores"):
            return getattr(self.environment, name)
        raise AttributeError(name)


def turns(weights: Sequence[float]) -> list[int]:
    """Whose turn it is, over and over: each number as often as its weight says, spread as evenly as can be. The one that is furthest
    behind its share comes next. `UserError` where weights are so odd that the pattern has more than `FINEST` turns."""
    exact = [Fraction(str(weight)) for weight in weights]
    whole = lcm(*(share.denominator for share in exact))
    counts = [int(share * whole) for share in exact]
    counts = [count // gcd(*counts) for count in counts]
    if sum(counts) > FINEST:
        raise UserError(
            f"the weights {', '.join(f'{w:g}' for w in weights)} need a pattern of {sum(counts):,} prompts; write rounder ones"
        )
    behind, out = [0] * len(counts), []
    for _ in range(sum(counts)):
        behind = [lag + count for lag, count in zip(behind, counts)]
        number = max(range(len(counts)), key=behind.__getitem__)
        behind[number] -= sum(counts)
        out.append(number)
    return out


def mixture_of(task: Any) -> Mixture | None:
    """The mixture that a task is, or is a view of; None for any other."""
    found = getattr(task, "task", None)
    inner = found if isinstance(found, Mixture) else task
    return inner if isinstance(inner, Mixture) else None


def sources_of(task: Any) -> dict[str, Any]:
    """The tasks of a mixture by the names of its sources; of any other task itself, under ''."""
    mixture = mixture_of(task)
    return {"": task} if mixture is None else dict(mixture.tasks)


__all__ = ["NAME", "Mixture", "Source", "mixture_of", "sources", "sources_of", "unfolded"]
