"""The evaluation protocol: what a scorer is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import Field

from anypo.data.records import FAILED, Trajectory
from anypo.errors import UserError
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode
from anypo.parts import Part
from anypo.scoring.units import ACCURACY
from anypo.tasks.base import Problem, Task
from anypo.tasks.live import posed

CHUNK = 256
"""Episodes played at once (bounds memory and gives a progress display something to show)."""

Progress = Callable[[int, int], None]
"""Told how many episodes of how many are done."""

PASS = "pass@"


@dataclass(frozen=True)
class Evaluation:
    """A score with its 95 % interval over `n` held-out problems or episodes, in a unit such as ``accuracy`` or ``return``.

    details: further numbers by name; language tasks have ``pass@k``, ``majority`` and ``length``. trajectories: the rollouts it
    came from, `samples` consecutive ones for each of the `problems`.
    """

    score: float
    low: float
    high: float
    unit: str
    n: int
    samples: int = 1
    details: Mapping[str, float] = field(default_factory=dict)
    trajectories: tuple[Trajectory, ...] = field(default=(), repr=False)
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right answers. Raises `AttributeError` where something else was measured."""
        if self.unit == ACCURACY:
            return self.score
        if ACCURACY not in self.details:
            raise AttributeError(f"this evaluation measured the {self.unit}, not the accuracy; read its score")
        return self.details[ACCURACY]

    @property
    def length(self) -> float:
        """Mean number of decisions (tokens or steps) of a rollout."""
        return self.details.get("length", float("nan"))

    @property
    def majority(self) -> float:
        """Share of problems whose most frequent answer is right."""
        return self.details.get("majority", float("nan"))

    @property
    def pass_at(self) -> dict[int, float]:
        """pass@k by k."""
        return {int(name.removeprefix(PASS)): v for name, v in self.details.items() if name.startswith(PASS)}

    def summary(self) -> dict[str, Any]:
        """The numbers without the rollouts, flat; an accuracy is there under its own name too, pass@k as a mapping."""
        others = {name: value for name, value in self.details.items() if not name.startswith(PASS)}
        own = {"score": self.score, "low": self.low, "high": self.high, "unit": self.unit, "n": self.n}
        named = {ACCURACY: self.score} if self.unit == ACCURACY else {}
        passed = {"pass_at": self.pass_at} if self.pass_at else {}
        return {**named, **own, "samples": self.samples, **passed, **others}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The evaluation that `summary` described. Entries of older runs have an accuracy and no unit."""
        unit = str(plain.get("unit", ACCURACY))
        known = {"label", "step", "score", "low", "high", "unit", "n", "samples", "pass_at"}
        known |= {ACCURACY} if unit == ACCURACY else set()
        details = {f"{PASS}{k}": float(value) for k, value in (plain.get("pass_at") or {}).items()}
        details |= {name: float(value) for name, value in plain.items() if name not in known}
        score = plain["score"] if "score" in plain else plain[ACCURACY]
        return cls(score, plain["low"], plain["high"], unit, plain["n"], plain.get("samples", 1), details)


class Scorer(Part, slot="scorer"):
    """How a policy is scored on a task: what is played, and what the rollouts are worth.

    A task names its own as `task.scorer` (see `scorer_of`). Everything is played by the method's own generator
    (`Generate.evaluate`), so a method whose gain lies in how it acts is scored with it.
    """

    unit: ClassVar[str]

    size: int = Field(200, ge=0, description="held-out problems or episodes")
    samples: int = Field(1, ge=1, description="rollouts of each")
    temperature: float | None = Field(None, ge=0.0, description="default: 0 (greedy) for one sample each, else 1")

    def fit(self, task: Task, size: int) -> Self:
        """This scorer over `size` problems, or as many as the task has."""
        return self.replace(size=size)

    def score(self, world: World, generate: Generate, seed: int, progress: Progress | None = None) -> Evaluation:
        """Play and judge. Random numbers depend on `seed` and on the problems alone, so two policies meet the same ones."""
        raise NotImplementedError

    @property
    def heat(self) -> float:
        """The temperature in use."""
        return self.temperature if self.temperature is not None else (0.0 if self.samples == 1 else 1.0)


def scorer_of(task: Task) -> Scorer:
    """The task's own scorer, or the accuracy on its held-out problems."""
    found = Scorer.parse(getattr(task, "scorer", "heldout"))
    assert isinstance(found, Scorer)
    return found


def rollouts(
    episodes: Sequence[Episode], world: World, generate: Generate, temperature: float, progress: Progress | None
) -> list[Trajectory]:
    """The finished episodes in order, played `CHUNK` at a time as the generator acts when it is evaluated."""
    done: list[Trajectory] = []
    for begin in range(0, len(episodes), CHUNK):
        chunk = episodes[begin : begin + CHUNK]
        played = generate.evaluate(chunk, world, temperature)
        if len(played) != len(chunk):
            raise UserError(f"generate={generate.part} gave {len(played)} rollouts for {len(chunk)} episodes")
        done += played
        if progress is not None:
            progress(len(done), len(episodes))
    if done and all(trajectory.finish == FAILED for trajectory in done):
        why = done[-1].extra.get("failed") or "no reason is known"
        raise UserError(f"every one of {len(done)} held-out rollouts of task '{world.task.name}' failed: {why}")
    return done


def heldout(task: Task, count: int) -> list[Problem]:
    """The first `count` held-out problems, or as many as there are and again from the first. `UserError` for a task that raises."""
    return [posed(task, task.heldout, index % task.n_heldout) for index in range(count)]
