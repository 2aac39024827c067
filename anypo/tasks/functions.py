"""Functions of the user's own as rewards: of one answer or of a whole batch, plain or async.

    def near(text, answer): ...                    # one answer; (text), (text, answer) or (text, answer, metadata)
    def lengths(completions, **columns): ...       # all answers at once: a list of texts, and lists of whatever else is named

A function of a batch is known by its argument ``completions``. It may name ``prompts`` (the questions), ``answers``, ``metadata`` and
any column of the problems, or take all of them as ``**columns``; it returns as many numbers. Functions run in this process, for
what a notebook holds can be found in no other: one that hangs hangs the run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anypo.callables import accepted, parameters, place_of
from anypo.errors import UserError
from anypo.tasks.base import Problem, Reply, Task
from anypo.tasks.text.onestep import OneStep, OneStepTask
from anypo.tasks.worker import reason

Function = Callable[..., Any]


class Judged:
    """The problems of a one-step task, with answers judged by functions of the user's own. Satisfies `anypo.tasks.base.Task`.

    functions: by the name of their reward; each counts with weight 1. The first is the outcome, unless `keeps`: then the task's own
    rewards count too, and its outcome stays.
    """

    turns = 1

    def __init__(self, task: OneStepTask, functions: Mapping[str, Function], keeps: bool = False) -> None:
        self.task, self.functions, self.keeps = task, dict(functions), keeps
        self.name = task.name
        self.weights: Mapping[str, float] = {**(task.weights if keeps else {}), **dict.fromkeys(functions, 1.0)}
        self.outcome = task.outcome if keeps else next(iter(functions))
        self.labelled = task.labelled if keeps else True
        self.source, self.judge = task.source, task.judge

    def __len__(self) -> int:
        return len(self.task)

    @property
    def n_heldout(self) -> int:
        return self.task.n_heldout

    @property
    def stored(self) -> bool:
        return self.task.stored

    def train(self, index: int) -> Problem:
        return self.task.train(index)

    def heldout(self, index: int) -> Problem:
        return self.task.heldout(index)

    def answer(self, text: str) -> str | None:
        return self.task.answer(text)

    def environment(self, problem: Problem) -> OneStep:
        return OneStep(self, problem)  # type: ignore[arg-type]

    def score(
        self, problems: Sequence[Problem], texts: Sequence[str], tokens: Sequence[int] | None = None, limit: int = 0
    ) -> list[Reply]:
        """One reply per rollout, in order. What a function raises is the reason in `failed` of the rollouts it was called for."""
        own = self.task.score(problems, texts, tokens, limit) if self.keeps else [Reply({}) for _ in texts]
        values = {name: scores(function, problems, texts) for name, function in self.functions.items()}
        return [
            self._reply(reply, {name: value[index] for name, value in values.items()})
            for index, reply in enumerate(own)
        ]

    @staticmethod
    def _reply(own: Reply, values: Mapping[str, float | str]) -> Reply:
        """The task's own reply with the numbers of the functions; 0 where there is a reason in the place of one."""
        reasons = [value for value in values.values() if isinstance(value, str)]
        numbers = {name: 0.0 if isinstance(value, str) else value for name, value in values.items()}
        return Reply({**own.rewards, **numbers}, failed=own.failed or next(iter(reasons), ""))

    def describe(self) -> dict[str, Any]:
        """Provenance: the task's, and who judges instead of, or beside, its verifier."""
        plain = self.task.describe()
        mine = [{"name": name, "function": place_of(function)} for name, function in self.functions.items()]
        return {**plain, "rewards": [*(plain["rewards"] if self.keeps else []), *mine], "outcome": self.outcome}

    def close(self) -> None:
        self.task.close()


def judged(task: Task, functions: Sequence[Function], keeps: bool) -> Judged:
    """The task with those rewards. `UserError` for a task of several turns, for two of one name, and for a function that cannot be
    called as rewards are."""
    if not isinstance(task, OneStepTask):
        raise UserError(
            f"task '{task.name}' judges its own episodes: give its environment the reward instead of a function"
        )
    named: dict[str, Function] = {}
    for function in functions:
        name = name_of(function)
        if name in named or (keeps and name in task.weights):
            raise UserError(f"two rewards are named '{name}'; rename one of the functions")
        check(function)
        named[name] = function
    return Judged(task, named, keeps)


def name_of(function: Function) -> str:
    """What a function's reward is called."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "reward" if name == "<lambda>" else str(name)


def check(function: Function) -> None:
    """Raise `UserError` with file and line for a function that cannot be called as rewards are."""
    if not batched(function):
        accepted(function)


def batched(function: Function) -> bool:
    """Whether a function judges all answers at once."""
    return "completions" in parameters(function)


def scores(function: Function, problems: Sequence[Problem], texts: Sequence[str]) -> list[float | str]:
    """A number for every answer, or the reason why there is none."""
    if not texts:
        return []
    try:
        if batched(function):
            found = _awaited([function(**_columns(function, problems, texts))])[0]
            if isinstance(found, BaseException):
                raise found
            found = list(found)
            if len(found) != len(texts):
                raise ValueError(f"{len(found)} numbers for {len(texts)} answers")
            return [_number(function, value) for value in found]
        count = accepted(function)
        results = _awaited([_called(function, problem, text, count) for problem, text in zip(problems, texts)])
        return [_number(function, value) for value in results]
    except Exception as error:
        return [f"reward '{name_of(function)}': {reason(error)}"] * len(texts)


def _called(function: Function, problem: Problem, text: str, count: int) -> Any:
    try:
        return function(*(text, problem.answer, dict(problem.metadata))[:count])
    except Exception as error:
        return error


def _columns(function: Function, problems: Sequence[Problem], texts: Sequence[str]) -> dict[str, Any]:
    """What a function of a batch is called with: of all columns those that it names, or takes."""
    every: dict[str, list[Any]] = {"completions": list(texts)}
    every["prompts"] = [str(problem.messages[-1]["content"]) if problem.messages else "" for problem in problems]
    every["answers"] = every["answer"] = [problem.answer for problem in problems]
    every["metadata"] = [dict(problem.metadata) for problem in problems]
    for column in dict.fromkeys(name for problem in problems for name in problem.metadata):
        every.setdefault(column, [problem.metadata.get(column) for problem in problems])
    found = parameters(function)
    return every if any(p.kind is p.VAR_KEYWORD for p in found.values()) else {n: every[n] for n in found if n in every}


def _awaited(results: list[Any]) -> list[Any]:
    """The results, those of async functions waited for together, also where a loop is running already (a notebook's)."""
    if not any(inspect.isawaitable(result) for result in results):
        return results

    async def gather() -> list[Any]:
        waiting = [one if inspect.isawaitable(one) else _given(one) for one in results]
        return await asyncio.gather(*waiting, return_exceptions=True)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gather())
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.extend(asyncio.run(gather())))
    thread.start()
    thread.join()
    return out


async def _given(value: Any) -> Any:
    return value


def _number(function: Function, value: Any) -> float | str:
    said = f"reward '{name_of(function)}'"
    if isinstance(value, BaseException):
        return f"{said}: {reason(value)}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"{said}: it returned a {type(value).__name__}, not a number"
    return number if math.isfinite(number) else f"{said}: it returned {number}"


__all__ = ["Judged", "judged", "name_of", "scores"]
