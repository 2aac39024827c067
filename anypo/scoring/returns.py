"""Mean return of whole episodes: the score of control and of every task whose outcome is an amount."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from anypo.errors import UserError
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode
from anypo.scoring.base import Evaluation, Progress, Scorer, heldout, rollouts
from anypo.scoring.scores import mean_interval
from anypo.tasks.base import Task


class Returns(Scorer, name="returns"):
    """Mean of the task's outcome component over `size` episodes with Student's interval. Where the task has fewer held-out
    problems, the episodes go round them with other seeds; samples of one episode are averaged first."""

    unit: ClassVar[str] = "return"

    def fit(self, task: Task, size: int) -> Self:
        if size == 1:
            raise UserError("the mean return of one episode has no interval; evaluate on at least 2 episodes (or on 0)")
        return self.replace(size=size if task.n_heldout else 0)

    def score(self, world: World, generate: Generate, seed: int, progress: Progress | None = None) -> Evaluation:
        """Raises `UserError` for fewer than two episodes, or a task without held-out problems."""
        task, n, samples = world.task, self.size, self.samples
        if n < 2 or not task.n_heldout:
            raise UserError(f"task '{task.name}': a mean return needs at least 2 held-out episodes")
        problems = heldout(task, n)
        rounds = [index // task.n_heldout * samples for index in range(n)]
        episodes = [
            Episode(p, sample=first + s, seed=(seed, 2**31, p.prompt, first + s))
            for p, first in zip(problems, rounds)
            for s in range(samples)
        ]
        done = rollouts(episodes, world, generate, self.heat, progress)
        each = np.array([t.rewards.get(task.outcome, 0.0) for t in done]).reshape(n, samples).mean(1)
        score, low, high = mean_interval(each)
        details = {
            "median": float(np.median(each)),
            "worst": float(each.min()),
            "length": float(np.mean([len(t) for t in done])),
        }
        return Evaluation(score, low, high, self.unit, n, samples, details, tuple(done), tuple(problems))
