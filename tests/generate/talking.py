"""A small policy of letters that can hold conversations, its sampler, and tasks of several turns: everything follows from keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.engine.base import Completion
from anypo.generate.base import World
from anypo.tasks import Problem, Reply

EOS, USER, POLICY = 0, 27, 28
STOP = ")"
LETTERS = "_abcdefghijklmnopqrstuvwxyz"
PAREN = 29


class ByRule:
    """Samples by rule (text of what is read -> what is said) for any policy; keeps what it read."""

    exact = True

    def __init__(self, policy: Any, rule: Any) -> None:
        self.policy, self.rule, self.read = policy, rule, []

    def generate(self, requests: Any) -> list[Completion]:
        out = []
        for request in requests:
            self.read.append(self.policy.decode(request.tokens))
            tokens = self.policy.answer(self.rule(self.read[-1]))
            n = len(tokens)
            out.append(Completion(tokens, np.full(n, -0.5), np.ones(n), np.zeros(n), np.zeros(n, np.int64), "stop"))
        return out


class Talker:
    """Letters are tokens 1..26, ``)`` is 29; USER before every message of another role, POLICY before its own."""

    version, context = 3, 200

    def encode(self, messages: Any) -> np.ndarray:
        tokens: list[int] = []
        for message in messages:
            own = message["role"] == "assistant"
            tokens += [POLICY if own else USER, *self.letters(message["content"]), *([EOS] if own else [])]
        return np.array([*tokens, POLICY], dtype=np.int32)

    def continue_with(self, messages: Any, ended: bool = True, history: Any = ()) -> np.ndarray:
        return np.array([*([] if ended else [EOS]), *self.encode(messages)], dtype=np.int32)

    def letters(self, text: str) -> list[int]:
        return [PAREN if c == STOP else LETTERS.index(c) for c in text if c in LETTERS[1:] + STOP]

    def answer(self, text: str) -> np.ndarray:
        return np.array([*self.letters(text), EOS], dtype=np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(
            STOP if t == PAREN else LETTERS[t] for t in np.asarray(tokens).tolist() if 0 < t <= 26 or t == PAREN
        )


class Keyed:
    """Draws letters a..c, ``)`` and the end from the request's key, its prefix and nothing else; records what it was asked."""

    exact = True

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def generate(self, requests: Any) -> list[Completion]:
        self.requests += requests
        return [self.one(r) for r in requests]

    def one(self, request: Any) -> Completion:
        rng = np.random.default_rng([*(k % 2**63 for k in request.seed), *np.asarray(request.tokens).tolist()])
        tokens: list[int] = []
        finish = "length"
        while len(tokens) < request.sampling.max_new:
            tokens.append(int(rng.choice([1, 2, 3, PAREN, EOS], p=[0.25, 0.25, 0.2, 0.1, 0.2])))
            if tokens[-1] == EOS or (tokens[-1] == PAREN and STOP in request.sampling.stop):
                finish = "stop"
                break
        n = len(tokens)
        chance = rng.random(n)
        return Completion(
            np.array(tokens), np.log(chance), rng.random(n), np.zeros(n), np.full(n, 3, dtype=np.int64), finish
        )


class Chain:
    """Up to four turns: the policy earns the number of its a's, and is shown how many it said so far. Turns have keys."""

    name, weights, outcome, n_heldout = "chain", {"a": 0.5}, "a", 4
    stored = False

    def __len__(self) -> int:
        return 4

    def train(self, index: int) -> Problem:
        return Problem(100 + index, ({"role": "user", "content": "abc"[: 1 + index % 3]},))

    heldout = train

    def environment(self, problem: Problem) -> Any:
        return Stored(problem) if self.stored else Linked(problem)

    def reply(self, text: str, turn: int, total: int) -> Reply:
        shown = {"role": "user", "content": "z" * (total % 5) + "y"}
        over = turn >= 4
        return Reply(
            {"a": float(text.count("a"))}, over, () if over else (shown,), keys={"state": total, "kind": text[:1]}
        )


class Linked:
    def __init__(self, problem: Problem) -> None:
        self.problem, self.turn, self.total = problem, 0, 0

    def reset(self) -> Any:
        self.turn, self.total = 0, 0
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        self.turn, self.total = self.turn + 1, self.total + text.count("a")
        return Chain().reply(text, self.turn, self.total)


class Stored(Linked):
    """The same, which stores its state and would not survive a replay."""

    steps = 0

    def reset(self, start: Any = None) -> Any:
        super().reset()
        if start is not None:
            self.turn, self.total = start
        return self.problem.messages

    def snapshot(self) -> Any:
        return (self.turn, self.total)

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        Stored.steps += 1
        return super().step(text, tokens, limit)


def rolled(part: Any, task: Any, samples: int = 3, asks: int = 2) -> tuple[list[Any], World]:
    world = World(task, Talker(), Keyed())
    context = Context(0, 10, 7, Memory(part))
    return part.rollout([Ask(i, samples) for i in range(asks)], world, context), world


def scripted(*texts: str) -> Any:
    """A sampler that says these texts in turn, to everybody; one that does not end with ``)`` ends with the end token."""
    said = iter(texts)

    def generate(requests: Any) -> list[Completion]:
        text = next(said)
        tokens = Talker().answer(text)[: -1 if text.endswith(STOP) else None]
        n = len(tokens)
        asked.extend(requests)
        return [
            Completion(tokens, np.full(n, -0.5), np.ones(n), np.zeros(n), np.full(n, 3, dtype=np.int64), "stop")
            for _ in requests
        ]

    asked: list[Any] = []
    return SimpleNamespace(exact=True, generate=generate, asked=asked)
