"""Evaluation on held-out problems: greedy accuracy, or pass@k from several samples per problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anypo.data.records import Trajectory
from anypo.engine.base import Sampling
from anypo.errors import UserError
from anypo.evaluate.scores import majority_at_k, pass_at_k, wilson
from anypo.generate.base import World
from anypo.generate.conversation import Episode, converse
from anypo.generate.workspace import Workspace
from anypo.tasks.base import Problem

CHUNK = 256
"""Episodes played at once (bounds memory and gives a progress display something to show)."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy with its 95 % Wilson interval over `n` held-out problems, pass@k, and the rollouts it came from
    (`samples` consecutive ones for each of the `n` problems)."""

    accuracy: float
    low: float
    high: float
    n: int
    samples: int
    pass_at: dict[int, float]
    majority: float
    length: float
    trajectories: tuple[Trajectory, ...] = ()
    problems: tuple[Problem, ...] = ()

    def summary(self) -> dict[str, float | int | dict[int, float]]:
        """The numbers without the rollouts."""
        return {
            "accuracy": self.accuracy,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "samples": self.samples,
            "pass_at": self.pass_at,
            "majority": self.majority,
            "length": self.length,
        }


def evaluate(
    world: World,
    n: int,
    *,
    samples: int = 1,
    sampling: Sampling | None = None,
    turns: int = 1,
    workspace: Workspace | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the policy on the first `n` held-out problems. Its turns see what the method's own `workspace` shows them (None:
    everything so far); an episode of several trajectories is represented by its last one.

    One sample per problem is greedy unless `sampling` says otherwise; more samples need a temperature. A rollout is right
    when the task's outcome component reaches 1. Raises `UserError` when the task has fewer held-out problems than asked.
    """
    if n > world.task.n_heldout:
        raise UserError(f"task '{world.task.name}' has {world.task.n_heldout} held-out problems, {n} were asked for")
    sampling = sampling or Sampling(temperature=0.0 if samples == 1 else 1.0)
    if samples > 1 and sampling.temperature == 0:
        raise UserError("several samples per problem need a temperature above 0 (greedy samples are all equal)")
    problems = [world.task.heldout(index) for index in range(n)]
    episodes = [Episode(p, sample=s, seed=(seed, 2**31, p.prompt, s)) for p in problems for s in range(samples)]
    done: list[Trajectory] = []
    lengths: list[int] = []
    for begin in range(0, len(episodes), CHUNK):
        some = episodes[begin : begin + CHUNK]
        made = converse(some, world.task, world.policy, world.sampler, sampling, turns, workspace)
        done += [trajectories[-1] for trajectories in made]
        lengths += [sum(map(len, trajectories)) for trajectories in made]
        if progress is not None:
            progress(len(done), len(episodes))
    right = np.array([t.rewards.get(world.task.outcome, 0.0) >= 1 - 1e-9 for t in done]).reshape(n, samples)
    return dataclasses.replace(_summarise(right, done, lengths, samples), problems=tuple(problems))


def _summarise(right: np.ndarray, done: list[Trajectory], lengths: list[int], samples: int) -> Evaluation:
    n = len(right)
    correct = right.sum(1)
    low, high = wilson(round(right.mean(1).sum()), n) if n else (0.0, 1.0)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    majority = [
        majority_at_k([t.text.strip() for t in done[i * samples : (i + 1) * samples]], list(right[i])) for i in range(n)
    ]
    return Evaluation(
        accuracy=float(right.mean()) if n else 0.0,
        low=low,
        high=high,
        n=n,
        samples=samples,
        pass_at={k: float(np.mean([pass_at_k(samples, int(c), k) for c in correct])) for k in ks} if n else {},
        majority=float(np.mean(majority)) if n else 0.0,
        length=float(np.mean(lengths)) if done else 0.0,
        trajectories=tuple(done),
    )
