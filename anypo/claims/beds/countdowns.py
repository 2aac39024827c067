"""Answers of many lengths whose expected reward is known exactly: a character model that counts letters down and ends with a digit.

A prompt is a number and a letter; its answer is the letters from that one down to a, and the number's first digit. A right answer is
right to the last character, so that the probabilities of the few texts that are right add up to the expected reward.
"""

from __future__ import annotations

import math
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.beds.words import TextTask, question, warm
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.tasks.base import Problem

LETTERS = string.ascii_lowercase + string.ascii_uppercase


def heavy(rng: np.random.Generator, count: int) -> list[int]:
    """The quantiles of a log-normal law with median 4 and deviation 1.2 of the logarithm, in any order: a tenth has more than 18
    letters, the longest 52."""
    places = (rng.permutation(count) + 0.5) / count
    return [int(min(52, max(1, round(4 * math.exp(1.2 * NormalDist().inv_cdf(q)))))) for q in places]


def fixed(rng: np.random.Generator, count: int) -> list[int]:
    """Twelve letters each."""
    return [12] * count


@dataclass(frozen=True)
class Countdowns:
    """`count` prompts of these `lengths`. Before training the policy gives the right digit in about the share `skill` of its answers
    and any in the others. tells: where it is not None, the digit comes first, and what follows tells how it will end: in this share
    of the answers small letters follow a right digit and capitals a wrong one, in the others it is the other way round."""

    count: int = 24
    lengths: Callable[[np.random.Generator, int], list[int]] = heavy
    skill: float = 0.3
    tells: float | None = None
    warm: int = 200

    def problems(self) -> list[tuple[str, list[str]]]:
        """Every prompt with its right answers."""
        return _problems(self)

    def world(self) -> World:
        """The policy after its warm start, and the task."""
        rows = self.problems()
        right = dict(rows)
        asked = [question(text, answers[0]) for text, answers in rows]
        spare = [
            question(f"spare {k}", "a") for k in range(self.count // 3)
        ]  # the last quarter of a `TextTask` is held out

        def grade(problem: Problem, text: str) -> float:
            return float(text in right[problem.messages[0]["content"]])

        policy = _warmed(self)()
        return World(TextTask((*asked, *spare), grade), policy, Local().sampler(policy))  # type: ignore[arg-type]

    def values(self, policy: Any) -> np.ndarray:
        """Exact expected reward of every prompt, [count]."""
        groups = []
        for number, (text, answers) in enumerate(self.problems()):
            prompt = policy.encode(({"role": "user", "content": text},))
            groups.append(Group(number, tuple(_written(number, prompt, policy.answer(a)) for a in answers)))
        batch = Batch.pack(groups)
        logp = policy.fill(batch, ["logp"], grad=False)["logp"].double()
        whole = logp.new_zeros(batch.n_sequences).index_add(0, batch.sequence, logp)
        found = whole.new_zeros(self.count).index_add(0, batch.group, whole.exp())
        return found.numpy()  # type: ignore[no-any-return]


def _written(prompt: int, shown: np.ndarray, said: np.ndarray) -> Trajectory:
    tokens = np.concatenate([shown, said]).astype(np.int32)
    roles = np.array([CONTEXT] * len(shown) + [ACTION] * len(said), dtype=np.int8)
    return Trajectory(prompt, Tokens(tokens, roles), np.zeros(len(said)), np.zeros(len(said), dtype=np.int64))


@lru_cache(maxsize=8)
def _problems(bed: Countdowns) -> list[tuple[str, list[str]]]:
    rows = []
    for number, length in enumerate(bed.lengths(np.random.default_rng(7), bed.count)):
        down, digit = LETTERS[length - 1 :: -1], number // 10
        answers = [f"{down}{digit}"] if bed.tells is None else [f"{digit}{down}", f"{digit}{down.upper()}"]
        rows.append((f"{number:02d}{LETTERS[length - 1]}", answers))
    return rows


@lru_cache(maxsize=4)
def _warmed(bed: Countdowns) -> Callable[[], Any]:
    rng, examples = np.random.default_rng(11), []
    for text, answers in bed.problems():
        for _ in range(40):
            right = str(int(text[:2]) // 10)
            digit = right if rng.random() < bed.skill else str(rng.integers(0, 10))
            if bed.tells is None:
                examples.append((text, answers[0][:-1] + digit))
            else:
                plain = (digit == right) == (rng.random() < bed.tells)
                examples.append((text, digit + answers[0 if plain else 1][1:]))
    return warm([examples[i] for i in rng.permutation(len(examples))], bed.warm, 0)


@dataclass(frozen=True)
class Learned:
    """One run. values: exact expected reward of every prompt before the first step and after each, [steps + 1, count]. tokens:
    decoded so far, passes: of the engine so far, seconds: of processor time spent sampling so far, all [steps + 1]. trained: tokens
    trained on, all together. rows: the metrics of every step, and
    the `balance` of the groups that it trained on."""

    values: np.ndarray
    tokens: np.ndarray
    passes: np.ndarray
    seconds: np.ndarray
    trained: float
    rows: Sequence[dict[str, float]]
    trainer: Trainer

    @property
    def value(self) -> np.ndarray:
        """Mean over the prompts, [steps + 1]."""
        return self.values.mean(1)  # type: ignore[no-any-return]

    def needed(self, goal: float, of: np.ndarray) -> float:
        """How much of `of` was spent when the expected reward first came to `goal`; inf where it never did."""
        there = np.flatnonzero(self.value >= goal)
        return float(of[there[0]]) if len(there) else float("inf")

    def within(self, tokens: float) -> float:
        """Mean expected reward over the first so many decoded tokens."""
        spent = np.minimum(self.tokens, tokens)
        spent[-1] = tokens
        return float((self.value[:-1] * np.diff(spent)).sum() / tokens)

    def metric(self, name: str) -> float:
        """Mean of a metric over the steps that logged it."""
        return float(np.mean([row[name] for row in self.rows if name in row] or [np.nan]))


def _balance(groups: Sequence[Group]) -> float:
    """Share of right times share of wrong rollouts of a group that is trained on, mean over the groups."""
    return float(np.mean([(r := group.rewards.mean()) * (1 - r) for group in groups] or [0.0]))


class Timed:
    """An engine, and the processor time that it took to sample."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, *given: Any) -> Any:
        return self._timed(self.engine.generate, *given)

    def watched(self, *given: Any) -> Any:
        return self._timed(self.engine.watched, *given)

    def _timed(self, work: Callable[..., Any], *given: Any) -> Any:
        began = time.process_time()
        found = work(*given)
        self.seconds += time.process_time() - began
        return found


def learn(
    algorithm: Algorithm, bed: Countdowns, steps: int, seed: int, tokens: float = np.inf, goal: float = np.inf
) -> Learned:
    """Train on the bed for `steps` steps, or until so many tokens are decoded or the expected reward has come to `goal`."""
    world = bed.world()
    engine: Any = Timed(world.sampler)
    world.sampler = engine
    trainer = Trainer(algorithm, world, seed, steps)
    before = engine.stats.sampled, engine.stats.steps
    rows: list[dict[str, float]] = []
    values, spent = [bed.values(world.policy)], [(0.0, 0.0, 0.0)]
    while len(rows) < steps and spent[-1][0] < tokens and values[-1].mean() < goal:
        rows.append(trainer.step() | {"balance": _balance(trainer.groups)})
        values.append(bed.values(world.policy))
        spent.append((engine.stats.sampled - before[0], engine.stats.steps - before[1], engine.seconds))
    trained = sum(row["tokens/trained"] for row in rows)
    decoded, passes, seconds = np.array(spent).T
    return Learned(np.array(values), decoded, passes, seconds, trained, rows, trainer)
