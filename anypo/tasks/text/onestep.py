"""One-step tasks: a source of problems, and a scorer of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.errors import UserError, nearest, shown
from anypo.tasks.base import Action, Environment, Problem, Reply
from anypo.tasks.live import attempt
from anypo.tasks.text.extract import extract
from anypo.tasks.text.rewards import Correct
from anypo.tasks.text.scoring import Scorer


class Source(Protocol):
    """Where the problems come from. The two sides never share a question."""

    def __len__(self) -> int:
        """Training problems."""
        ...

    @property
    def n_heldout(self) -> int: ...

    def train(self, index: int) -> Problem: ...

    def heldout(self, index: int) -> Problem: ...

    def describe(self) -> dict[str, Any]:
        """Provenance of the problems."""
        ...


class OneStepTask:
    """Question, answer, verdict. Satisfies `anypo.tasks.base.Task`; `score` judges many rollouts at once."""

    turns = 1

    def __init__(self, name: str, source: Source, judge: Scorer) -> None:
        self.name, self.source, self.judge = name, source, judge
        self.weights: Mapping[str, float] = judge.weights
        self.outcome = judge.outcome
        self.labelled = judge.labelled

    @property
    def stored(self) -> bool:
        """Whether the problems are in memory."""
        return bool(getattr(self.source, "stored", False))

    def __len__(self) -> int:
        return len(self.source)

    @property
    def n_heldout(self) -> int:
        return self.source.n_heldout

    def train(self, index: int) -> Problem:
        """Training problem `index`, 0 <= index < len(task); IndexError otherwise."""
        return self.source.train(_within(index, len(self), "training"))

    def heldout(self, index: int) -> Problem:
        """Held-out problem `index`, 0 <= index < n_heldout; IndexError otherwise."""
        return self.source.heldout(_within(index, self.n_heldout, "held-out"))

    def environment(self, problem: Problem) -> OneStep:
        return OneStep(self, problem)

    def score(
        self, problems: Sequence[Problem], texts: Sequence[str], tokens: Sequence[int] | None = None, limit: int = 0
    ) -> list[Reply]:
        """One reply per rollout, in order (see `Scorer.score`)."""
        return self.judge.score(problems, texts, tokens, limit)

    def answer(self, text: str) -> str | None:
        """The answer in a text, as the verifier reads it; None when there is none."""
        correct = next(component for component in self.judge.components if isinstance(component, Correct))
        found = extract(correct.verifier.extract if correct.verifier else "whole", text)
        return None if found is None else found.strip()

    def describe(self) -> dict[str, Any]:
        """Provenance: where the problems come from, and who judges the answers."""
        return {
            "name": self.name,
            "source": self.source.describe(),
            "rewards": [component.identity() | {"name": component.title} for component in self.judge.components],
            "outcome": self.outcome,
            "timeout": self.judge.timeout,
        }

    def close(self) -> None:
        """Stop the worker processes, if any run."""
        self.judge.pool.close()


class OneStep:
    """The episode of a one-step task: over after one answer."""

    def __init__(self, task: OneStepTask, problem: Problem) -> None:
        self.task, self.problem = task, problem

    def reset(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return self.task.score([self.problem], [text], [tokens], limit)[0]


def step_all(
    environments: Sequence[Environment], texts: Sequence[str], tokens: Sequence[int], limit: int
) -> list[Reply]:
    """Step every environment with its text; the one-step ones of a task are scored as one batch (parallel workers). What others
    raise becomes a failed reply (`anypo.tasks.live.attempt`)."""
    replies: list[Reply | None] = [None] * len(environments)
    batches: dict[int, list[int]] = {}
    for index, environment in enumerate(environments):
        if isinstance(environment, OneStep):
            batches.setdefault(id(environment.task), []).append(index)
        else:
            replies[index] = attempt(environment, Action(texts[index], tokens[index], limit))
    for indices in batches.values():
        members = [environments[index] for index in indices]
        assert isinstance(members[0], OneStep)
        scored = members[0].task.score(
            [member.problem for member in members if isinstance(member, OneStep)],
            [texts[index] for index in indices],
            [tokens[index] for index in indices],
            limit,
        )
        for index, reply in zip(indices, scored):
            replies[index] = reply
    return [reply for reply in replies if reply is not None]


def conversation(content: str, system: str = "") -> tuple[Mapping[str, str], ...]:
    """A user message, after a system message if there is one."""
    opening = ({"role": "system", "content": system},) if system else ()
    return (*opening, {"role": "user", "content": content})


def identify(messages: Sequence[Message]) -> int:
    """The prompt id of a conversation: of its texts, and of whatever else its messages hold (tools, calls, names)."""
    texts = [f"{message['role']}: {message['content']}" for message in messages]
    more = [{key: message[key] for key in sorted(message.keys() - {"role", "content"})} for message in messages]
    return prompt_id("\n".join([*texts, *([json.dumps(more, default=str)] if any(more) else [])]))


def fill(template: str, values: Mapping[str, Any], task: str) -> str:
    """`template` with its {placeholders} replaced; `UserError` when one is unknown or the braces do not match."""
    try:
        return template.format_map(values)
    except KeyError as error:
        name = str(error.args[0])
        raise UserError(
            f"task '{task}': the template has the unknown placeholder {{{name}}}.{nearest(name, map(str, values))}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"task '{task}': the template {shown(template)} cannot be filled in ({error})") from None


def _within(index: int, size: int, side: str) -> int:
    if not 0 <= index < size:
        raise IndexError(f"there are {size} {side} problems; {index} is not one of them")
    return index
