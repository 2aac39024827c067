"""Accuracy on held-out problems: greedy answers, or pass@k from several samples per problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from anypo.data.records import Trajectory
from anypo.errors import UserError
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode
from anypo.scoring.base import PASS, Evaluation, Progress, Scorer, heldout, rollouts
from anypo.scoring.scores import majority_at_k, pass_at_k, wilson
from anypo.scoring.units import ACCURACY
from anypo.tasks.base import Problem, Task
from anypo.tasks.unlabelled import labelled


class Heldout(Scorer, name="heldout"):
    """Share of the first `size` held-out problems that are answered rightly, with its Wilson interval; with several samples the
    mean over them (pass@1), and pass@k and majority@k beside it. A rollout is right when the task's outcome component
    reaches 1."""

    unit: ClassVar[str] = ACCURACY

    def fit(self, task: Task, size: int) -> Self:
        return self.replace(size=min(size, task.n_heldout) if labelled(task) else 0)

    def score(self, world: World, generate: Generate, seed: int, progress: Progress | None = None) -> Evaluation:
        """Raises `UserError` when the task has fewer held-out problems than asked, or samples would all be equal."""
        task, n, samples = world.task, self.size, self.samples
        if n > task.n_heldout:
            raise UserError(f"task '{task.name}' has {task.n_heldout} held-out problems, {n} were asked for")
        if samples > 1 and self.heat == 0:
            raise UserError("several samples per problem need a temperature above 0 (greedy samples are all equal)")
        problems = heldout(task, n)
        episodes = [Episode(p, sample=s, seed=(seed, 2**31, p.prompt, s)) for p in problems for s in range(samples)]
        done = rollouts(episodes, world, generate, self.heat, progress)
        right = np.array([t.rewards.get(task.outcome, 0.0) >= 1 - 1e-9 for t in done]).reshape(n, samples)
        return summarise(right, done, problems, task)


def summarise(
    right: np.ndarray, done: Sequence[Trajectory], problems: Sequence[Problem], task: Task | None = None
) -> Evaluation:
    """The evaluation of verdicts [n, samples] and the n * samples rollouts they judge, in the same order. Majorities are counted
    over what the task finds to be the `answer` of a text, else over whole texts."""
    n, samples = right.shape
    low, high = wilson(round(right.mean(1).sum()), n) if n else (0.0, 1.0)
    correct = right.sum(1)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples and n]
    read = getattr(task, "answer", str.strip)
    answers = [read(trajectory.text) for trajectory in done]
    majority = [majority_at_k(answers[i * samples : (i + 1) * samples], list(right[i])) for i in range(n)]
    details = {f"{PASS}{k}": float(np.mean([pass_at_k(samples, int(c), k) for c in correct])) for k in ks}
    details["majority"] = float(np.mean(majority)) if n else 0.0
    details["length"] = float(np.mean([len(t) for t in done])) if done else 0.0
    score = float(right.mean()) if n else 0.0
    return Evaluation(score, low, high, ACCURACY, n, samples, details, tuple(done), tuple(problems))
