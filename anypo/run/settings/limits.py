"""Whether every prompt fits, found out where the task meets the tokenizer, and not after hours of training.

Problems that are in memory (those of files) are all looked at, up to `MOST` of a side; of those that are made one by one, the
first `MADE`. A prompt whose bytes, counted twice, are fewer than the limit fits, whatever the tokenizer makes of it; only the
others are rendered and tokenised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anypo.engine.base import Limit
from anypo.errors import UserError
from anypo.policies.language.quiet import quiet
from anypo.tasks.base import Problem, Task
from anypo.tasks.live import posed

MOST, MADE = 20_000, 16


def check_prompts(task: Task, policy: Any, limit: Limit, heldout: int | None = None) -> str:
    """Raise `UserError`, with their number and the first of them, where training prompts do not fit in `limit`, or with `heldout` the
    first so many held-out ones. Returns what was not looked at as a sentence, '' where nothing is left to say."""
    name, side, size = ("training", task.train, len(task)) if heldout is None else ("held-out", task.heldout, heldout)
    stored = bool(getattr(task, "stored", False))
    seen, length = min(size, MOST if stored else MADE), _length(policy, limit)
    problems = (posed(task, side, index) for index in range(seen))
    with quiet():
        long = [(problem, found) for problem in problems if (found := length(problem)) > limit.tokens]
    if long:
        raise UserError(_refusal(task, name, seen, long, limit))
    return f"only the first {seen:,} of {size:,} {name} prompts were checked to fit" if stored and seen < size else ""


MARGIN = 128
"""Bytes that a chat template may add to a short conversation."""


def longest(task: Task) -> int:
    """Bytes of the longest training prompt of a task whose problems are in memory; 0 for others."""
    if not getattr(task, "stored", False):
        return 0
    problems = (task.train(index) for index in range(min(len(task), MOST)))
    texts = lambda problem: (str(message.get("content", "")) for message in problem.messages)
    return max((sum(len(text.encode(errors="replace")) for text in texts(problem)) for problem in problems), default=0)


def _length(policy: Any, limit: Limit) -> Callable[[Problem], int]:
    """The number of a problem's tokens; 0 where it fits anyway, or nobody can tell."""
    around: int | None = None

    def measure(problem: Problem) -> int:
        nonlocal around
        messages = problem.messages
        if not messages or not all(isinstance(message.get("content"), str) for message in messages):
            return 0  # shown by the environment, or content that is more than text
        own = sum(len(message["content"].encode(errors="replace")) + 64 for message in messages)
        if around is None:  # what the template adds: the same for every prompt, or nearly
            around = max(0, len(policy.chat.render(messages).encode(errors="replace")) - own)
        if 2 * (own + around) < limit.tokens:
            return 0
        return len(policy.chat.encode(messages))

    return measure


def _refusal(task: Task, side: str, seen: int, long: list[tuple[Problem, int]], limit: Limit) -> str:
    problem, length = long[0]
    where = problem.place or repr(str(problem.messages[-1]["content"])[:40])
    return (
        f"{len(long):,} of {seen:,} {side} prompts of task '{task.name}' {'does' if len(long) == 1 else 'do'} not fit: "
        f"{'the first, ' if len(long) > 1 else ''}{where}, has {length:,} tokens, and {limit.why}; "
        f"{'shorten it or leave it out' if len(long) == 1 else 'shorten them or leave them out'}, or {limit.advice}"
    )


__all__ = ["MARGIN", "check_prompts", "longest"]
