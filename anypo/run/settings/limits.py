"""Whether every prompt fits, found out where the task meets the tokenizer, and not after hours of training; and what becomes of those
that do not.

Problems that are in memory (those of files) are all looked at, up to `MOST` of a side; of those that are made one by one, the
first `MADE`. A prompt whose bytes, counted twice, are fewer than the limit fits, whatever the tokenizer makes of it; only the
others are rendered and tokenised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from anypo.engine.base import Limit
from anypo.errors import UserError
from anypo.policies.language.quiet import quiet
from anypo.tasks.base import Problem, Task
from anypo.tasks.fitted import Fitted
from anypo.tasks.live import posed
from anypo.tasks.mixture import Mixture

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


Way = Literal["refuse", "drop", "truncate"]
"""What becomes of prompts that are too long: the run is refused, they are left out, or the longest text in each loses its start."""


def fitting(task: Any, policy: Any, limit: Limit, way: Way) -> tuple[Any, list[str]]:
    """The task as a run may have it whose overlong prompts are dropped or truncated, and a sentence for every side that this changes.

    All problems in memory are looked at. Of those that are made one by one none is dropped, for nobody knows them; they are cut
    as they come. Raises `UserError` where no training prompt is left, or where one cannot be cut short enough.
    """
    if isinstance(task, Mixture):
        parts = {name: fitting(own, policy, limit, way) for name, own in task.tasks.items()}
        every = [sentence for _, own in parts.values() for sentence in own]
        return (task.over({name: own for name, (own, _) in parts.items()}) if every else task), every
    stored, length = bool(getattr(task, "stored", False)), _length(policy, limit)
    if not stored and way == "drop":
        return task, []
    cut = (lambda problem: _cut(problem, length, limit)) if way == "truncate" else (lambda problem: problem)
    kept: dict[str, Sequence[int]] = {}
    said: list[str] = []
    for name, side, size in (("training", task.train, len(task)), ("held-out", task.heldout, task.n_heldout)):
        long = _longer(task, side, size, length, limit) if stored else set()
        kept[name] = range(size) if way == "truncate" else [place for place in range(size) if place not in long]
        if long:
            done = "dropped" if way == "drop" else "cut at the beginning of their longest text"
            said.append(
                f"{len(long):,} of {size:,} {name} prompts of task '{task.name}' do not fit ({limit.why}): {done}"
            )
        for place in sorted(long) if way == "truncate" else ():
            cut(posed(task, side, place))
    if not len(kept["training"]):
        raise UserError(f"no training prompt of task '{task.name}' fits: {limit.why}; {limit.advice}")
    return (Fitted(task, kept["training"], kept["held-out"], cut), said) if said or not stored else (task, [])


def _longer(task: Task, side: Any, size: int, length: Callable[[Problem], int], limit: Limit) -> set[int]:
    """The places of the problems of a side that do not fit."""
    with quiet():
        return {place for place in range(size) if length(posed(task, side, place)) > limit.tokens}


def _cut(problem: Problem, length: Callable[[Problem], int], limit: Limit) -> Problem:
    """The problem with the end of its longest text, as much of it as fits: what is asked stands there."""
    if length(problem) <= limit.tokens:
        return problem
    sizes = [len(message["content"]) if isinstance(message["content"], str) else 0 for message in problem.messages]
    longest = sizes.index(max(sizes))

    def ending(size: int) -> Problem:
        text = problem.messages[longest]["content"][sizes[longest] - size :]
        shorter = {**problem.messages[longest], "content": text}
        return replace(problem, messages=(*problem.messages[:longest], shorter, *problem.messages[longest + 1 :]))

    low, high = 0, sizes[longest]  # the first fits, if any does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(ending(middle)) <= limit.tokens else (low, middle)
    if not low or length(ending(low)) > limit.tokens:
        where = problem.place or repr(str(problem.messages[-1]["content"])[:40])
        raise UserError(
            f"{where}: the prompt cannot be cut short enough, and {limit.why}; leave it out (overlong: drop)"
        )
    return ending(low)


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
        f"{'shorten it' if len(long) == 1 else 'shorten them'}, say --overlong drop or truncate, or {limit.advice}"
    )


__all__ = ["MARGIN", "Way", "check_prompts", "fitting", "longest"]
