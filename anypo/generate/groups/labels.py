"""Multi-label answers: every label of a text is switched on or off at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Steps, Trajectory, prompt_id
from anypo.engine.base import Sampler
from anypo.generate.base import OWN, Generate, World, answered, rollout_key
from anypo.policies.language.labels import LabelPolicy
from anypo.tasks.base import Problem, Task

IGNORED = -100
"""Target of a label that is not known: not decided on, not counted."""


class LabelVectors(Generate, name="label_vectors"):
    """Vectors of independent Bernoulli labels as rollouts (the reinforcement stage of GLiClass, arXiv:2508.07662).

    The world's policy is a `LabelPolicy`; a problem's metadata holds ``input`` (K, label tokens, text tokens) and
    ``targets`` [K] in {0, 1, -100}. The reward is the F1 score against the known targets (component ``f1``), the only
    feedback. `actions`: drawn from the probabilities, or ``threshold`` p > 0.5. They are drawn once and held for all
    passes of the step.
    """

    by_itself, conversational = True, False

    actions: Literal["bernoulli", "threshold"] = "bernoulli"
    threshold: float = Field(0.5, gt=0.0, lt=1.0)

    def suits(self, task: Task) -> str | None:
        if isinstance(task, LabelTask):
            return None
        return "it draws label vectors from an encoder over texts and labels; such a world is made in Python, with label_world"

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        with torch.no_grad():
            logits = world.policy.label_logits([p.metadata["input"] for p in problems])
        out = []
        for ask, problem, z in zip(asks, problems, logits):
            chance = torch.sigmoid(z.cpu().double()).numpy()
            members = [
                self._one(
                    problem,
                    chance,
                    n,
                    np.random.default_rng(rollout_key(context, problem, ask.visit, OWN, n)),
                    world,
                )
                for n in range(ask.samples)
            ]
            out.append(answered(ask, problem, members, context))
        return out

    def _one(
        self, problem: Problem, chance: np.ndarray, sample: int, generator: np.random.Generator, world: World
    ) -> Trajectory:
        targets = np.asarray(problem.metadata["targets"])
        slots = np.flatnonzero(targets != IGNORED)
        p = chance[slots]
        draw = generator.random(len(slots)) < p if self.actions == "bernoulli" else p > self.threshold
        took = np.where(draw, p, 1 - p).clip(1e-12)
        score = f1(draw, targets[slots] == 1)
        return Trajectory(
            prompt=problem.prompt,
            content=Steps(slots, draw.astype(np.int64), np.asarray(problem.metadata["input"])),
            logp=np.log(took),
            version=np.full(len(slots), world.policy.version, dtype=np.int64),
            entropy=-(p * np.log(p.clip(1e-12)) + (1 - p) * np.log((1 - p).clip(1e-12))),
            rewards={"f1": score},
            reward=score,
            sample=sample,
        )


@dataclass(frozen=True)
class LabelTask:
    """Texts with label vectors: the training side of an `anypo.tasks.base.Task`, as far as `LabelVectors` needs one."""

    problems: tuple[Problem, ...]
    name: str = "labels"
    outcome: str = "f1"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"f1": 1.0}

    def __len__(self) -> int:
        return len(self.problems)

    def train(self, index: int) -> Problem:
        return self.problems[index]


def label_world(inputs: Sequence[Any], targets: Sequence[Any], policy: LabelPolicy) -> World:
    """A world of `inputs` (K, label tokens, text tokens) and their `targets` [K] in {0, 1, -100}, for a `Trainer`.

    Nothing is generated token by token, so there is no engine in it.
    """
    problems = tuple(
        Problem(prompt_id(repr(np.asarray(x).tolist())), (), metadata={"input": np.asarray(x), "targets": list(y)})
        for x, y in zip(inputs, targets, strict=True)
    )
    return World(cast(Task, LabelTask(problems)), policy, cast(Sampler, SimpleNamespace(exact=True)))


def f1(said: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of precision and recall of a label vector; 1 when there is nothing to find and nothing was said."""
    hits = float((said & true).sum())
    total = float(said.sum() + true.sum())
    return 2 * hits / total if total else 1.0
