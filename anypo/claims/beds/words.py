"""Where claims that need words are tried: a character model of a few ten thousand parameters, warmed up by supervised training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anypo.algorithm import Algorithm
from anypo.data.records import prompt_id
from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.tasks.base import Environment, Problem, Reply
from anypo.update.sft import SFT, train

SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 192, "context": 320}


@dataclass(frozen=True)
class TextTask:
    """Questions and answers as text. `problems`: training and held-out ones together, the last quarter held out."""

    problems: tuple[Problem, ...]
    grade: Callable[[Problem, str], float]
    name: str = "text"
    outcome: str = "correct"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"correct": 1.0}

    def __len__(self) -> int:
        return len(self.problems) * 3 // 4

    @property
    def n_heldout(self) -> int:
        return len(self.problems) - len(self)

    def train(self, index: int) -> Problem:
        return self.problems[index]

    def heldout(self, index: int) -> Problem:
        return self.problems[len(self) + index]

    def environment(self, problem: Problem) -> Environment:
        return Graded(self, problem)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "problems": len(self.problems)}


@dataclass(frozen=True)
class Graded:
    """One question of a `TextTask`."""

    task: TextTask
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({"correct": self.task.grade(self.problem, text)})


def question(text: str, answer: str, **metadata: Any) -> Problem:
    """A problem with one user message; the answer is also its worked solution."""
    return Problem(prompt_id(text), ({"role": "user", "content": text},), answer, answer, metadata)


def warm(examples: Sequence[tuple[str, str]], steps: int, seed: int) -> Callable[[], Any]:
    """Copies of one small character model after supervised steps on (question, answer) texts."""
    from anypo.policies.loading import load

    policy = load(SMALL, seed=seed)
    pairs = [(policy.encode(({"role": "user", "content": q},)), policy.answer(a)) for q, a in examples]
    train(policy, pairs, SFT(steps=steps, lr=3e-3, seed=seed, examples=32))
    weights = {name: value.clone() for name, value in policy.state_dict().items()}

    def copy() -> Any:
        fresh = load(SMALL, seed=seed)
        fresh.load_state_dict(weights)
        return fresh

    return copy


def run_on(algorithm: Algorithm, task: Any, policy: Any, steps: int, seed: int) -> Trainer:
    """Train `policy` in place."""
    trainer = Trainer(algorithm, World(task, policy, Local().sampler(policy)), seed, steps)
    for _ in range(steps):
        trainer.step()
    return trainer


def greedy(policy: Any, questions: Sequence[str], most: int) -> list[str]:
    """The policy's greedy answers."""
    sampler = Local().sampler(policy)
    prompts = [policy.encode(({"role": "user", "content": q},)) for q in questions]
    found = sampler.generate([Request(p, Sampling(most, 0.0), (i,)) for i, p in enumerate(prompts)])
    return [policy.decode(c.tokens) for c in found]
