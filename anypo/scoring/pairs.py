"""How many held-out preferences a policy agrees with."""

from __future__ import annotations

from typing import ClassVar, Self

import torch

from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.generate.base import Generate, World
from anypo.replay.solutions import pair
from anypo.scoring.base import CHUNK, Evaluation, Progress, Scorer, heldout
from anypo.scoring.scores import wilson
from anypo.tasks.base import Task


class Pairs(Scorer, name="pairs"):
    """Share of the first `size` held-out pairs whose chosen answer the policy finds likelier than the rejected one, log pi(y_c) >
    log pi(y_r), sums over tokens, with its Wilson interval (ranking accuracy, arXiv:2405.19534). Nothing is generated, and no
    reference is needed."""

    unit: ClassVar[str] = "pairs ranked right"

    def fit(self, task: Task, size: int) -> Self:
        return self.replace(size=min(size, task.n_heldout))

    def score(self, world: World, generate: Generate, seed: int, progress: Progress | None = None) -> Evaluation:
        task, n = world.task, self.size
        if n > task.n_heldout:
            raise UserError(f"task '{task.name}' has {task.n_heldout} held-out pairs, {n} were asked for")
        problems = heldout(task, n)
        gaps: list[float] = []
        for begin in range(0, n, CHUNK):
            batch = Batch.pack([pair(problem, world.policy) for problem in problems[begin : begin + CHUNK]])
            with torch.no_grad():
                logp = world.policy.fill(batch, ["logp"], False)["logp"].double().cpu()
            total = batch.sequence_sum(logp)
            gaps += (total[0::2] - total[1::2]).tolist()
            if progress is not None:
                progress(len(gaps), n)
        right = sum(gap > 0 for gap in gaps)
        low, high = wilson(right, n) if n else (0.0, 1.0)
        details = {"margin": sum(gaps) / n} if n else {}
        return Evaluation(right / max(1, n), low, high, self.unit, n, 1, details, (), tuple(problems))
