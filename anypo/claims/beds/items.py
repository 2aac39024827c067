"""Ten thousand prompts and a policy whose ability drifts as it learns: where methods are tried that choose prompts and budgets.

The policy is an item-response model (Rasch 1960): it answers prompt j rightly with probability sigmoid(general + skill of its topic -
difficulty of j), and what it learns on one prompt holds for others. A prompt's words are its topic, its level and its own number;
difficulty is a sum over these, so words tell most of it and nobody tells the rest. The whole loop is the library's; what is
exact is every prompt's success rate at every moment.

    d loss / d ability = - mean over groups of n u (1 - u) / n        (advantage: reward minus group mean; u the group's success rate)

so a group that is all right or all wrong teaches nothing, and prompts half solved teach most.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.engine.base import Completion, Request
from anypo.exact.graph import uniforms
from anypo.filter import DropDegenerate, Screen
from anypo.generate.base import OWN, Independent, World, answered, rollout_key
from anypo.generate.groups.restructured import WANTED
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Environment, Problem, Reply

WRONG, RIGHT, TOPIC, LEVEL, ITEM = 0, 1, 2, 100, 200
"""Tokens: the two answers, and the first of the topics, of the levels and of the items."""

BAND = (0.2, 0.8)
"""Success rates of prompts that are neither solved nor hopeless."""


@dataclass(frozen=True)
class Items:
    """`count` prompts in `topics` topics and `levels` levels. A level is one unit of difficulty, a topic's own difficulty has standard
    deviation `topic`, what no word tells `hidden`; `hard` is the mean difficulty. share: of an ability's rise on a prompt, how much is
    the topic's alone (the rest is general). lr: of plain gradient steps;
    critic_lr: of Adam's, for what a controller trains. simpler: levels by which the
    policy lowers a question that it is told to simplify (None: it cannot write)."""

    count: int = 10_000
    topics: int = 20
    levels: int = 8
    topic: float = 1.0
    hidden: float = 0.7
    hard: float = 3.5
    share: float = 0.5
    lr: float = 0.7
    critic_lr: float = 0.03
    simpler: int | None = None
    prompts: int = 32
    samples: int = 8
    name: str = "items"
    outcome: str = "correct"
    weights: Mapping[str, float] = field(default_factory=lambda: {"correct": 1.0})

    def replace(self, **fields: Any) -> Items:
        return replace(self, **fields)

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Topic and level of every prompt, both int64 [count]."""
        rng = np.random.default_rng([self.count, 1])
        return rng.integers(self.topics, size=self.count), rng.integers(self.levels, size=self.count)

    def difficulty(self, seed: int) -> np.ndarray:
        """Of every prompt, in logits, [count]."""
        rng = np.random.default_rng([seed, 2])
        topic, level = self.words()
        own = self.topic * rng.standard_normal(self.topics)[topic] + self.hidden * rng.standard_normal(self.count)
        return self.hard + own + level - (self.levels - 1) / 2  # type: ignore[no-any-return]

    def world(self, seed: int) -> World:
        """A fresh world; difficulties are the seed's."""
        policy = ItemPolicy(self, seed) if self.simpler is None else Writer(self, seed)
        sampler = ItemSampler(policy) if self.simpler is None else WriterSampler(policy)
        return World(ItemTask(self), policy, sampler)  # type: ignore[arg-type]

    def adapt(self, algorithm: Algorithm | str) -> Algorithm:
        """A (named) method at this bed's sizes, with plain gradient steps in the place of Adam's, which are of one length whatever a
        batch teaches."""
        method = find(algorithm).algorithm() if isinstance(algorithm, str) else algorithm
        sizes: dict[str, Any] = {
            "control.prompts": self.prompts,
            "control.samples": self.samples,
            "generate.max_new": 1,
        }
        if "optimiser" in type(method.control).model_fields:
            sizes["control.optimiser.lr"] = self.critic_lr
        step = {"update.optimiser": {"part": "sgd", "lr": self.lr}, "update.max_grad_norm": 1e9}
        method = method.set({**sizes, **step})
        quick = {name: getattr(method.generate, name) for name in Independent.model_fields}
        return method.replace(generate=ItemRollouts(**quick)) if type(method.generate) is Independent else method


@dataclass(frozen=True)
class ItemTask:
    """The prompts as a task: right is right."""

    items: Items
    name: str = "items"
    outcome: str = "correct"
    weights: Mapping[str, float] = field(default_factory=lambda: {"correct": 1.0})

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", np.stack(self.items.words(), 1).tolist())

    def __len__(self) -> int:
        return self.items.count

    @property
    def n_heldout(self) -> int:
        return len(self)

    def train(self, index: int) -> Problem:
        topic, level = self.table[index]  # type: ignore[attr-defined]
        said = ({"role": "user", "content": f"{topic} {level} {index}"},)
        return Problem(index, said, answer="right", metadata={"operations": level + 1})

    def heldout(self, index: int) -> Problem:
        return self.train(index)

    def environment(self, problem: Problem) -> Environment:
        return ItemAnswer(problem)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "problems": len(self)}


@dataclass(frozen=True)
class ItemAnswer:
    """One question."""

    problem: Problem

    def reset(self) -> tuple[Any, ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({"correct": float(text == "right")})


class ItemPolicy(nn.Module):
    """Abilities: one general, one for every topic, all 0 in the beginning. Satisfies `anypo.policies.base.Policy`; an answer is one
    token."""

    columns = frozenset({"logp", "entropy"})
    context = 8

    def __init__(self, items: Items, seed: int = 0) -> None:
        super().__init__()
        self.items, self.version = items, 0
        self.weight = nn.Parameter(torch.zeros(1 + items.topics, dtype=torch.float64))
        self.register_buffer("difficulty", torch.from_numpy(items.difficulty(seed)), persistent=False)
        topic, level = map(torch.from_numpy, items.words())
        self.register_buffer("topic", topic, persistent=False)
        self.register_buffer("level", level, persistent=False)

    def logits(self, item: Tensor | slice = slice(None), level: Tensor | None = None) -> Tensor:
        """Log odds of a right answer, connected to the abilities; of all prompts, [count], or of some, at another `level` than their
        own where it is given."""
        general, own = math.sqrt(1 - self.items.share), math.sqrt(self.items.share)
        easier = 0 if level is None else self.level[item] - level  # type: ignore[index]
        return general * self.weight[0] + own * self.weight[1:][self.topic[item]] - self.difficulty[item] + easier  # type: ignore[index]

    @torch.no_grad()
    def rates(self) -> np.ndarray:
        """Every prompt's success rate, [count]."""
        return torch.sigmoid(self.logits()).numpy()

    @torch.no_grad()
    def drawn(
        self, item: np.ndarray, keys: list[tuple[int, ...]], level: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One answer for every key: whether it is right, its log-probability and the entropy of the choice, all [S]."""
        told = None if level is None else torch.from_numpy(level)
        p = torch.sigmoid(self.logits(torch.from_numpy(item), told)).numpy()
        right = uniforms(keys, 1)[:, 0] < p
        logp = np.log(np.where(right, p, 1 - p).clip(1e-300))
        return right, logp, -(p * np.log(p.clip(1e-300)) + (1 - p) * np.log((1 - p).clip(1e-300)))

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """`logp`, `entropy`, both [N]."""
        contents = [t.content for t in batch.trajectories if isinstance(t.content, Tokens)]
        item = torch.tensor([int(content.tokens[2]) - ITEM for content in contents], dtype=torch.int64)
        level = torch.tensor([int(content.tokens[1]) - LEVEL for content in contents], dtype=torch.int64)
        token = torch.tensor([int(content.tokens[3]) for content in contents], dtype=torch.float64)
        with torch.set_grad_enabled(grad):
            z = self.logits(item, level)
            logp = nn.functional.logsigmoid((2 * token - 1) * z)
            p = torch.sigmoid(z)
            entropy = -(p * nn.functional.logsigmoid(z) + (1 - p) * nn.functional.logsigmoid(-z))
            return {name: value for name, value in (("logp", logp), ("entropy", entropy)) if name in names}

    def critic(self, seed: int = 0) -> ItemCritic:
        """A value function of the words of a prompt, 0 everywhere."""
        return ItemCritic(self.items)

    def frozen(self) -> ItemPolicy:
        return copy.deepcopy(self).requires_grad_(False)

    def encode(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        topic, level, item = map(int, messages[-1]["content"].split()[:3])
        return np.array([TOPIC + topic, LEVEL + level, ITEM + item], dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        return "right" if len(tokens) and int(tokens[0]) == RIGHT else "wrong"


class ItemCritic(nn.Module):
    """Column ``value`` [N]: linear in the topic and the level of a prompt; it does not know its number."""

    columns = frozenset({"value"})

    def __init__(self, items: Items) -> None:
        super().__init__()
        self.topics = nn.Parameter(torch.zeros(items.topics, dtype=torch.float64))
        self.levels = nn.Parameter(torch.zeros(items.levels, dtype=torch.float64))

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        words = [t.content.tokens[:2] for t in batch.trajectories if isinstance(t.content, Tokens)]
        topic, level = torch.tensor(np.stack(words).astype(np.int64)).unbind(1)
        with torch.set_grad_enabled(grad):
            return {"value": self.topics[topic - TOPIC] + self.levels[level - LEVEL]} if names else {}

    @torch.no_grad()
    def known(self, topic: np.ndarray, level: np.ndarray) -> np.ndarray:
        """What it takes to be the success of prompts with these words, [P], within 0 and 1."""
        return (self.topics[torch.from_numpy(topic)] + self.levels[torch.from_numpy(level)]).clamp(0, 1).numpy()


class ItemSampler:
    """Draws answers. Satisfies `anypo.engine.base.Sampler`."""

    exact = True

    def __init__(self, policy: ItemPolicy) -> None:
        self.policy = policy

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        if not requests:
            return []
        item = np.array([int(request.tokens[2]) - ITEM for request in requests])
        level = np.array([int(request.tokens[1]) - LEVEL for request in requests])
        right, logp, spread = self.policy.drawn(item, [request.seed for request in requests], level)
        version, none = np.array([self.policy.version]), np.zeros(1)
        return [
            Completion(np.array([int(r)]), logp[i : i + 1], spread[i : i + 1], none, version, "stop")
            for i, r in enumerate(right)
        ]


ASKED = 1_000_000
"""Added to the topic of a prompt that is to be rewritten."""


class Writer(ItemPolicy):
    """Reads the instructions of `anypo.generate.groups.restructured`, and follows them: a question that it is told to simplify comes
    back `simpler` levels lower, another one as it was, both in words of their own."""

    def encode(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        text = messages[-1]["content"]
        plain = super().encode(({"content": text.rpartition("\n")[2]},))
        if "Question:" not in text:
            return plain
        down = int(self.items.simpler or 0) if WANTED["hard"] in text else 0
        return np.array([plain[0] + ASKED, max(LEVEL, plain[1] - down), plain[2]])

    def decode(self, tokens: np.ndarray) -> str:
        if len(tokens) < 3:
            return super().decode(tokens)
        return f"{tokens[0] - ASKED - TOPIC} {tokens[1] - LEVEL} {tokens[2] - ITEM} in other words"


class WriterSampler(ItemSampler):
    """Writes what it is asked to, and draws answers."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        plain = iter(super().generate([r for r in requests if r.tokens[0] < ASKED]))
        return [_written(request) if request.tokens[0] >= ASKED else next(plain) for request in requests]


def _written(request: Request) -> Completion:
    none = np.zeros(len(request.tokens))
    return Completion(request.tokens, none, none, none, none.astype(int), "stop")


class ItemRollouts(Independent, name="items_at_once"):
    """What `independent` makes of asks in this bed, to the bit, without going through conversations of one token."""

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        policy, problems = world.policy, [world.problem(ask) for ask in asks]
        prompts = [policy.encode(problem.messages) for problem in problems]
        keys = [
            rollout_key(context, p, ask.visit, OWN, n, 0) for ask, p in zip(asks, problems) for n in range(ask.samples)
        ]
        item = np.repeat([int(tokens[2]) - ITEM for tokens in prompts], [ask.samples for ask in asks])
        right, logp, spread = policy.drawn(item, keys)
        roles, none, version = np.array([CONTEXT] * 3 + [ACTION]), np.zeros(1), np.array([policy.version])
        groups, at, turn = [], 0, np.zeros(1)
        for ask, problem, tokens in zip(asks, problems, prompts):
            made = []
            for sample in range(ask.samples):
                said, mark = bool(right[at]), {"correct": float(right[at])}
                made.append(
                    Trajectory(
                        problem.prompt, Tokens(np.array([*tokens, said], dtype=np.int32), roles), logp[at : at + 1],
                        version, mark, mark["correct"], spread[at : at + 1], none, None, turn, sample=sample,
                        text="right" if said else "wrong", weights=world.task.weights,
                    )
                )  # fmt: skip
                at += 1
            groups.append(answered(ask, problem, made, context))
        return groups


@dataclass(frozen=True)
class Followed:
    """What a run chose, one entry per step.

    success: mean exact rate over all prompts before the step, and after the last one, [steps + 1]; hardest: over the quarter of them
    that was hardest in the beginning. asked: exact rate of every prompt
    that was rolled out, before it taught anything; sizes: rollouts of each. spent: all rollouts, those of
    rewritten prompts included. best: the largest mean of p (1 - p) that as many
    prompts can have. indices: which they were. rows: the metrics.
    """

    success: np.ndarray
    hardest: np.ndarray
    asked: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]
    spent: np.ndarray
    best: np.ndarray
    indices: tuple[np.ndarray, ...]
    rows: tuple[Mapping[str, float], ...]
    trainer: Trainer

    @property
    def informative(self) -> float:
        """Expected share of groups with both right and wrong answers among them, over the run."""
        mixed = [1 - p**n - (1 - p) ** n for p, n in zip(self.asked, self.sizes)]
        return float(np.concatenate(mixed).mean())

    @property
    def regret(self) -> float:
        """Share of the variance p (1 - p) that choosing by the exact rates would have found and the run did not."""
        return float(1 - sum((p * (1 - p)).mean() for p in self.asked) / self.best.sum())

    @property
    def found(self) -> float:
        """First step (from 1) of which half of the prompts lie in `BAND`; inf where none."""
        inside = [((p >= BAND[0]) & (p <= BAND[1])).mean() >= 0.5 for p in self.asked]
        return float(np.argmax(inside) + 1) if any(inside) else math.inf

    @property
    def coverage(self) -> float:
        """Distinct prompts over prompts asked for."""
        every = np.concatenate(self.indices)
        return len(np.unique(every)) / len(every)

    @property
    def rollouts(self) -> float:
        """Rollouts per step."""
        return float(np.mean(self.spent))

    @property
    def final(self) -> float:
        """Exact success over all prompts at the end."""
        return float(self.success[-1])

    @property
    def area(self) -> float:
        """Exact success over all prompts, mean over the run."""
        return float(self.success.mean())

    def metric(self, name: str) -> np.ndarray:
        """A step metric, where it was logged."""
        return np.array([row[name] for row in self.rows if name in row])

    def within(self, rollouts: float, hardest: bool = False) -> float:
        """Exact success over all prompts (or the hardest), mean over the first so many rollouts: for methods that spend more of them
        in a step."""
        spent = np.minimum(np.cumsum(self.spent), rollouts)
        shares = np.diff(np.concatenate([[0.0], spent, [rollouts]])) / rollouts
        return float((self.hardest if hardest else self.success) @ shares)


def follow(
    algorithm: Algorithm | str,
    items: Items,
    steps: int,
    seed: int,
    change: Callable[[Algorithm], Algorithm] = lambda algorithm: algorithm,
    watch: Callable[[Trainer], None] | None = None,
) -> Followed:
    """Run a (named) method on `items` for `steps` steps; `change` is made last of all, `watch(trainer)` called after every step."""
    world = items.world(seed)
    trainer = Trainer(change(items.adapt(algorithm)), world, seed, steps)
    hard = np.argsort(world.policy.rates())[: max(1, items.count // 4)]
    success, hardest, asked, sizes, spent, best, indices, rows = [], [], [], [], [], [], [], []
    for _ in range(steps):
        rates = world.policy.rates()
        success.append(rates.mean())
        hardest.append(rates[hard].mean())
        rows.append(trainer.step())
        spent.append(sum(len(group.trajectories) for group in trainer.producer.fresh))
        groups = [group for group in trainer.producer.fresh if group.index >= 0]
        index = np.array([group.index for group in groups])
        asked.append(rates[index])
        sizes.append(np.array([len(group.trajectories) for group in groups]))
        indices.append(index)
        variance = rates * (1 - rates)
        if watch is not None:
            watch(trainer)
        best.append(np.partition(variance, -len(index))[-len(index) :].mean())
    last = world.policy.rates()
    curves = np.array([*success, last.mean()]), np.array([*hardest, last[hard].mean()])
    return Followed(
        *curves, tuple(asked), tuple(sizes), np.array(spent), np.array(best), tuple(indices), tuple(rows), trainer
    )


Change = Callable[[Algorithm], Algorithm]
"""What is made of an algorithm last of all."""


def runs(
    algorithm: Algorithm | str, items: Items, steps: int, seeds: Sequence[int], change: Change | None = None
) -> list[Followed]:
    """One run per seed."""
    return [follow(algorithm, items, steps, seed, change or (lambda same: same)) for seed in seeds]


def uniform(algorithm: Algorithm) -> Algorithm:
    """The same method on prompts drawn evenly from all problems."""
    return algorithm.replace(control=_even(algorithm, 0.0))


def by_lot(algorithm: Algorithm) -> Algorithm:
    """The same method on prompts drawn evenly from as many problems as its controller draws from."""
    return algorithm.replace(control=_even(algorithm, getattr(algorithm.control, "passes", 0.0)))


def filtered(algorithm: Algorithm) -> Algorithm:
    """Even draws, and dynamic sampling: groups without contrast are generated again, up to ten times."""
    return uniform(algorithm).replace(filter=Screen(rounds=10, survival=(DropDegenerate(),)))


def _even(algorithm: Algorithm, passes: float) -> Uniform:
    return Uniform(prompts=algorithm.control.prompts, samples=algorithm.control.samples, passes=passes)
