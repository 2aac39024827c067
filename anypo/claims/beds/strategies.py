"""A world for methods that learn in words: an answer is one of eight strategies, and lessons change how a frozen policy chooses. It
reads "use a" before a question and takes strategy a more often; nothing else it is shown means anything to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.words import TextTask, question
from anypo.exact import EnumerablePolicy, EnumerableSampler, tree
from anypo.exact.policy import LETTERS
from anypo.generate.base import World
from anypo.roles import cast

STRATEGIES = 8
LESSON = re.compile(r"\buse ([a-h])\b(?: \(([0-9]+)\))?")
"""A lesson, and how often it was learned."""


class Hinted(EnumerablePolicy):
    """pi(strategy | question, hints) = softmax(z + `strength` where the strategy is hinted at), as a table over all sets of hints."""

    def __init__(self, inclination: np.ndarray, strength: float) -> None:
        questions = len(inclination)
        super().__init__(tree(STRATEGIES + 1, 1), questions << STRATEGIES)
        hinted = np.arange(1 << STRATEGIES)[:, None] >> np.arange(STRATEGIES) & 1
        logits = inclination[:, None] + strength * hinted[None]
        silent = np.full((*logits.shape[:2], 1), -50.0)  # it always answers
        table = np.concatenate([silent, logits], 2).reshape(-1, STRATEGIES + 1)
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(table))

    def encode(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """One token: the question (the last word p<j>) with the hints in all that was said."""
        said = " ".join(message["content"] for message in messages)
        hints = sum(1 << LETTERS.index(letter) for letter in {found[0] for found in LESSON.findall(said)})
        number = int(re.findall(r"\bp(\d+)\b", said)[-1])
        return np.array([self.graph.vocabulary + (number << STRATEGIES) + hints], dtype=np.int64)


@dataclass(frozen=True)
class Strategies:
    """`questions` of which the last quarter is held out. Two strategies solve a question with chance `good`, the others with chance
    `poor`, fixed once per question; the policy's own inclinations have standard deviation `spread`."""

    questions: int = 64
    good: float = 0.85
    poor: float = 0.25
    spread: float = 1.0
    strength: float = 2.0

    def solves(self, seed: int) -> np.ndarray:
        """Whether a strategy solves a question, [questions, strategies]."""
        rng = np.random.default_rng([seed, 1])
        chances = np.full(STRATEGIES, self.poor)
        chances[rng.choice(STRATEGIES, 2, replace=False)] = self.good
        return rng.random((self.questions, STRATEGIES)) < chances

    def world(self, algorithm: Algorithm, seed: int) -> World:
        """A fresh world with the algorithm's other models in it."""
        solved = self.solves(seed)
        asked = tuple(question(f"p{number}", "", number=number) for number in range(self.questions))
        task = TextTask(asked, lambda p, text: float(text != "" and solved[p.metadata["number"], LETTERS.index(text)]))
        rng = np.random.default_rng([seed, 2])
        policy = Hinted(self.spread * rng.standard_normal((self.questions, STRATEGIES)), self.strength)
        sampler = EnumerableSampler(policy, seed=seed)
        return World(task, policy, sampler, cast(algorithm.models, policy, sampler, seed))  # type: ignore[arg-type]

    def success(self, world: World, library: str) -> float:
        """Exact success on the held-out questions of the policy that is shown `library`."""
        shown = ({"role": "system", "content": library},) if library else ()
        policy, task = world.policy, world.task
        table = policy.log_table().exp().detach().numpy()[:, 0, 1:]
        rewards = []
        for number in range(task.n_heldout):
            problem = task.heldout(number)
            context = int(policy.encode((*shown, *problem.messages))[0]) - policy.graph.vocabulary
            right = [task.environment(problem).step(letter).rewards["correct"] for letter in LETTERS[:STRATEGIES]]
            rewards.append(float(table[context] @ np.array(right)))
        return float(np.mean(rewards))


# -- a summariser that is a program -----------------------------------------------------------------------------------------------


def contraster(texts: Sequence[str]) -> list[str]:
    """Plays the summariser: it may only report strategies that the better or the worse attempts of one group chose more often, and
    keeps count in the library of how often a strategy was reported; a lesson whose count falls to 0 is deleted."""
    return [_reply(text, _contrast) for text in texts]


def single(texts: Sequence[str]) -> list[str]:
    """As `contraster`, but it looks at one attempt of a group alone, and reports what that one did if it was right."""
    return [_reply(text, lambda attempts: [f"use {c}" for r, c in attempts[:1] if r > 0.5]) for text in texts]


def _reply(text: str, compare: Callable[[list[tuple[float, str]]], list[str]]) -> str:
    stage = text.split(maxsplit=1)[0]
    if stage == "COMPARE":
        found = re.findall(r"^\(reward ([0-9.]+)\) (\w)$", text, re.M)
        return "\n".join(compare([(float(r), letter) for r, letter in found])) or "NONE"
    if stage == "REVISE":
        return json.dumps(_revise(text))
    return text.rsplit("## proposals\n", 1)[1] if stage == "MERGE" else ""


def _contrast(attempts: Sequence[tuple[float, str]]) -> list[str]:
    """ "use a" and "avoid a" for the strategies whose shares among right and wrong attempts differ most."""
    right = [letter for reward, letter in attempts if reward > 0.5]
    wrong = [letter for reward, letter in attempts if reward <= 0.5]
    share = lambda letter, among: among.count(letter) / max(1, len(among))
    gaps = {letter: share(letter, right) - share(letter, wrong) for letter in sorted({*right, *wrong})}
    best = sorted((letter for letter in gaps if gaps[letter]), key=lambda letter: -abs(gaps[letter]))
    return [f"{'use' if gaps[letter] > 0 else 'avoid'} {letter}" for letter in best]


def _revise(text: str) -> list[dict[str, object]]:
    kept, new = text.split("## new lesson 0", 1)
    known = {letter: (int(number), int(count)) for number, letter, count in _ENTRY.findall(kept)}
    plan: list[dict[str, object]] = []
    for word, letter in re.findall(r"\b(use|avoid) ([a-h])\b", new):
        number, count = known.get(letter, (None, 0))
        count += 1 if word == "use" else -1
        if number is None:
            plan += [{"operation": "ADD", "id": None, "content": f"use {letter} (1)"}] if count > 0 else []
        elif count > 0:
            plan.append({"operation": "UPDATE", "id": number, "content": f"use {letter} ({count})"})
        else:
            plan.append({"operation": "DELETE", "id": number})
    return plan


_ENTRY = re.compile(r"^\[(\d+)\] use ([a-h]) \((\d+)\)$", re.M)
