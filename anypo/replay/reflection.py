"""Learning in words: a model compares the rollouts of a group, and what it finds changes a library of lessons.

After Training-Free GRPO (arXiv:2510.08191; TencentCloudADP/youtu-agent, utu/practice): every rollout is summarised, the summaries
of a group are compared (the semantic advantage), each comparison proposes operations on the library, and one further call merges
all proposals of the batch into the plan that is carried out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group, Trajectory, prompt_id
from anypo.engine.base import Sampling
from anypo.replay.base import OnPolicy
from anypo.replay.libraries.lessons import LESSONS, Lessons, Operation, operations
from anypo.roles.base import Model

T = TypeVar("T")
Said = tuple[dict[str, str], ...]

SUMMARISE, COMPARE, REVISE, UNITE = "SUMMARISE", "COMPARE", "REVISE", "MERGE"
"""First word of each of the four questions, by which a program in the role can tell them apart."""


class Reflect(OnPolicy, name="reflect"):
    """Trains on what was just generated (nothing, with update=frozen), and lets the model `role` revise the lessons on the shelf
    from every group whose rewards differ.

    lessons: most lessons of one group. most: most entries of the library. tries: how often an answer that is no list of operations
    is asked for again; after that nothing changes. answers: whether the model sees the problem's answer. summaries: whether every
    rollout is summarised before they are compared.
    """

    provides = frozenset({f"library:{LESSONS}"})
    role: str = "summariser"
    lessons: int = Field(2, ge=1)
    most: int = Field(32, ge=1)
    tries: int = Field(3, ge=1)
    answers: bool = True
    summaries: bool = True
    max_new: int = Field(512, ge=1, description="most new tokens of an answer")
    temperature: float = Field(0.7, ge=0.0)

    def required(self) -> frozenset[str]:
        return super().required() | {f"model:{self.role}", f"model:{self.role}:ask"}

    def stores(self) -> dict[str, Any]:
        return {LESSONS: Lessons()}

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        library: Lessons = context.memory.shelf.get(LESSONS, Lessons)
        plan = self.plan([group for group in fresh if contrasts(group)], library, context)
        library.apply(plan, self.most)
        for kind in ("ADD", "UPDATE", "DELETE", "MERGE"):
            context.log(f"library/{kind.lower()}", sum(operation.kind == kind for operation in plan))
        context.log("library/size", len(library))
        return fresh

    def plan(self, groups: Sequence[Group], library: Lessons, context: Context) -> list[Operation]:
        """What is to become of the library after these groups; nothing is asked where there are none."""
        model = _Asked(context.world.models[self.role], Sampling(self.max_new, self.temperature), context)
        found = self._compare(groups, self._summaries(groups, model), model)
        questions = [revise(lessons, library, self.lessons) for lessons in found if lessons]
        proposals = model.until(REVISE, questions, operations, self.tries)
        proposed = [operation for plan in proposals for operation in plan or ()]
        if not proposed:
            return []
        united = model.until(UNITE, [unite(proposed, library)], operations, self.tries)
        return united[0] or []

    def _summaries(self, groups: Sequence[Group], model: _Asked) -> list[list[str]]:
        """Every rollout in words, by group: its own where it is not summarised."""
        if not self.summaries:
            return [[t.text for t in group.trajectories] for group in groups]
        wanted = [summarise(group, t, self.answers) for group in groups for t in group.trajectories]
        replies = iter(model.ask(SUMMARISE, wanted))
        return [[next(replies).strip() or t.text for t in group.trajectories] for group in groups]

    def _compare(self, groups: Sequence[Group], told: Sequence[Sequence[str]], model: _Asked) -> list[list[str]]:
        """The semantic advantage of every group: what the better rollouts did that the worse ones did not."""
        asked = [compare(group, words, self.lessons, self.answers) for group, words in zip(groups, told)]
        return [lines(reply, self.lessons) for reply in model.ask(COMPARE, asked)]


class _Asked:
    """A model with the sampling and the random numbers of one step."""

    def __init__(self, model: Model, sampling: Sampling, context: Context) -> None:
        self.model, self.sampling, self.key = model, sampling, (context.seed, context.step)

    def ask(self, stage: str, questions: Sequence[Said], again: int = 0) -> list[str]:
        """One reply to every question."""
        return self.model.ask(questions, self.sampling, (*self.key, prompt_id(stage), again)) if questions else []

    def until(
        self, stage: str, questions: Sequence[Said], read: Callable[[str], T | None], tries: int
    ) -> list[T | None]:
        """What `read` makes of the replies; those of which it makes nothing are asked for again, at most `tries` times in all."""
        found: list[T | None] = [None] * len(questions)
        for again in range(tries):
            open_ = [n for n, value in enumerate(found) if value is None]
            for n, reply in zip(open_, self.ask(stage, [questions[n] for n in open_], again)):
                found[n] = read(reply)
        return found


def contrasts(group: Group) -> bool:
    """Whether some rollouts did better than others: the others have nothing to compare, as their advantages would be zero."""
    return len(group.trajectories) > 1 and float(group.rewards.max() - group.rewards.min()) > 1e-9


def lines(reply: str, most: int) -> list[str]:
    """The first `most` lines of a reply without bullets and numbers; none where it says NONE."""
    bare = [re.sub(r"^\s*(?:[-*•]|\[?\d+[.):\]])\s*", "", line).strip() for line in reply.splitlines()]
    return [line for line in bare if line and line.strip(" .").upper() != "NONE"][:most]


# -- the four questions -------------------------------------------------------------------------------------------------------------


def summarise(group: Group, trajectory: Trajectory, answers: bool) -> Said:
    """What happened in one rollout?"""
    return _question(
        f"{SUMMARISE} one attempt at a problem: what was done, step by step, and what was missed.",
        problem=_problem(group),
        answer=_answer(group, answers),
        attempt=trajectory.text,
        reward=f"{trajectory.reward:g}",
    )


def compare(group: Group, told: Sequence[str], most: int, answers: bool) -> Said:
    """Why did some rollouts of a group do better?"""
    attempts = [f"(reward {t.reward:g}) {words}" for t, words in zip(group.trajectories, told)]
    return _question(
        f"{COMPARE} the attempts at one problem: what did the better ones do that the worse ones did not? Answer with at most "
        f"{most} lessons that would help with other problems of this kind, one a line, each as 'name: one sentence'. "
        "Write NONE when there is nothing to learn.",
        problem=_problem(group),
        answer=_answer(group, answers),
        **{f"attempt {number}": text for number, text in enumerate(attempts)},
    )


def revise(found: Sequence[str], library: Lessons, most: int) -> Said:
    """What do the lessons of one group change?"""
    return _question(
        f"{REVISE} a list of lessons. For each new lesson give one operation: ADD it when it says something new; UPDATE an entry "
        "that it makes more precise; DELETE an entry that it contradicts; NONE when the list has it already. Answer with a JSON "
        'list of objects {"operation": ..., "id": the number of the entry or null, "content": the lesson}.',
        list=library.text() or "(empty)",
        **{f"new lesson {number}": text for number, text in enumerate(found[:most])},
    )


def unite(proposed: Sequence[Operation], library: Lessons) -> Said:
    """What do all groups together change?"""
    return _question(
        f"{UNITE} the proposed operations on a list of lessons into one plan: fuse those that say the same; a DELETE goes before "
        "an UPDATE of the same entry; MERGE entries of the list that say the same (give their numbers as a list). Answer with a "
        'JSON list of objects {"operation": ADD, UPDATE, DELETE or MERGE, "id": ..., "content": ...}.',
        list=library.text() or "(empty)",
        proposals=json.dumps([operation.plain() for operation in proposed], ensure_ascii=False),
    )


def _question(instruction: str, **sections: str) -> Said:
    said = "\n\n".join(f"## {name}\n{text}" for name, text in sections.items() if text)
    return {"role": "system", "content": instruction}, {"role": "user", "content": said}


def _problem(group: Group) -> str:
    return "\n".join(message["content"] for message in group.problem.messages) if group.problem is not None else ""


def _answer(group: Group, shown: bool) -> str:
    return str(group.problem.answer) if shown and group.problem is not None else ""
