"""The score of a mixture of tasks: over the held-out problems of every source, each as that source is scored."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from anypo.errors import UserError
from anypo.generate.base import Generate, World
from anypo.scoring.base import Evaluation, Progress, Scorer, scorer_of
from anypo.scoring.scores import wilson
from anypo.scoring.units import ACCURACY
from anypo.tasks.base import Task
from anypo.tasks.mixture import Mixture

OF_SOURCE = "score/"
"""What the detail with the score of one source begins with."""


class Mixed(Scorer, name="mixture"):
    """`size` held-out problems, equally many of every source as far as it has them, whatever its weight in training. The score is the
    share that is right of all of them; ``score/SOURCE`` is that of one source."""

    unit: ClassVar[str] = ACCURACY

    def fit(self, task: Task, size: int) -> Self:
        return self.replace(size=sum(scorer.size for scorer in self._each(task, size).values()))

    def score(self, world: World, generate: Generate, seed: int, progress: Progress | None = None) -> Evaluation:
        """Raises `UserError` where a source does (see `Scorer.score`)."""
        found: dict[str, Evaluation] = {}
        for name, scorer in self._each(world.task, self.size).items():
            if scorer.size:
                tell = self._counting(progress, sum(one.n * one.samples for one in found.values()))
                own = replace(world, task=world.task.tasks[name])  # type: ignore[attr-defined]
                scored = scorer.score(own, generate, seed, tell)
                found[name] = replace(scored, problems=tuple(replace(p, source=name) for p in scored.problems))
        return together(found)

    def _counting(self, progress: Progress | None, before: int) -> Progress | None:
        """The progress of one source as that of all."""
        return None if progress is None else lambda done, _: progress(before + done, self.size * self.samples)

    def _each(self, task: Task, size: int) -> dict[str, Scorer]:
        """The scorers of the sources over their part of `size` problems: what one has not, the others make up for."""
        assert isinstance(task, Mixture)
        out: dict[str, Scorer] = {}
        scorers = {name: scorer_of(own) for name, own in task.tasks.items()}
        for name, scorer in scorers.items():
            if scorer.unit != ACCURACY:
                raise UserError(
                    f"the mixture's source '{name}' is scored by its {scorer.unit}, and a mixture by its accuracy"
                )
        most = {name: scorer.fit(task.tasks[name], size).size for name, scorer in scorers.items()}
        left = size
        for number, name in enumerate(sorted(scorers, key=lambda name: most[name])):
            part = min(left // (len(scorers) - number), most[name])
            own = scorers[name].fit(task.tasks[name], part)
            out[name], left = own.replace(samples=self.samples, temperature=self.temperature), left - part
        return {name: out[name] for name in scorers}


def together(found: dict[str, Evaluation]) -> Evaluation:
    """One evaluation of several, over all their problems."""
    n, samples = sum(one.n for one in found.values()), max((one.samples for one in found.values()), default=1)
    mean = lambda value: sum(one.n * value(one) for one in found.values()) / n if n else 0.0
    score = mean(lambda one: one.score)
    low, high = wilson(round(score * n), n) if n else (0.0, 1.0)
    every = set.intersection(*(set(one.details) for one in found.values())) if found else set()
    details = {name: mean(lambda one, name=name: one.details[name]) for name in sorted(every)}  # type: ignore[misc]
    details |= {f"{OF_SOURCE}{name}": one.score for name, one in found.items()}
    trajectories = tuple(t for one in found.values() for t in one.trajectories)
    problems = tuple(problem for one in found.values() for problem in one.problems)
    return Evaluation(score, low, high, ACCURACY, n, samples, details, trajectories, problems)


__all__ = ["OF_SOURCE", "Mixed", "together"]
