"""Who goes on from the beginning of an answer: a stronger model, or the worked solution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from anypo.context import Context
from anypo.data.content import Message, parted
from anypo.data.records import prompt_id
from anypo.engine.base import Sampling
from anypo.generate.base import World
from anypo.generate.guided.demonstrations import worked_only
from anypo.generate.repaired.faults import steps_of
from anypo.parts import Part
from anypo.tasks.base import Problem, Task


@dataclass(frozen=True)
class Begun:
    """An answer to be gone on with: the text `said` so far, which is `count` steps."""

    problem: Problem
    said: str
    count: int

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation whose last message, the assistant's, is to be gone on with."""
        before, opened = parted(self.problem.messages)
        said = opened + self.said
        return (*before, {"role": "assistant", "content": said}) if said else tuple(before)


class Teacher(Part, slot="teacher"):
    """Writes the rest of answers."""

    def suits(self, task: Task) -> str | None:
        """A sentence saying why there is nothing to go on with in `task`, or None."""
        return None

    @abstractmethod
    def rests(self, begun: Sequence[Begun], most: int, attempt: int, world: World, context: Context) -> list[str]:
        """One continuation of every beginning, of at most about `most` tokens; '' where there is none. attempt: which one it is, from
        0: another try may say something else."""


class ByModel(Teacher, name="by_model"):
    """The model in the role `role` goes on in the policy's own turn (`temperature` 0: its best guess, always the same). A program is
    given the prompt and the beginning, with an empty line between them."""

    role: str = "teacher"
    temperature: float = Field(1.0, ge=0.0)

    def required(self) -> frozenset[str]:
        return super().required() | {f"model:{self.role}", f"model:{self.role}:ask"}

    def rests(self, begun: Sequence[Begun], most: int, attempt: int, world: World, context: Context) -> list[str]:
        model, sampling = world.models[self.role], Sampling(most, self.temperature)
        fits = [model.fits(one.messages, sampling) for one in begun]
        asked = [one.messages for one, able in zip(begun, fits) if able]
        seed = (context.seed, context.step, prompt_id("teacher"), attempt)
        said = iter(model.ask(asked, sampling, seed) if asked else [])
        return [next(said) if able else "" for able in fits]


class BySolution(Teacher, name="by_solution"):
    """The worked solution from the step at which the beginning stopped: no second model, and right as far as solutions have the
    same steps at the same places."""

    delimiter: str = "\n"

    def suits(self, task: Task) -> str | None:
        return worked_only(task)

    def rests(self, begun: Sequence[Begun], most: int, attempt: int, world: World, context: Context) -> list[str]:
        return ["".join(steps_of(one.problem.solution, self.delimiter)[one.count :]) for one in begun]


__all__ = ["Begun", "ByModel", "BySolution", "Teacher"]
