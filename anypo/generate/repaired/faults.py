"""Where an answer goes wrong: its steps, and who says which of them is the first wrong one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field, field_validator

from anypo.context import Context
from anypo.data.content import parted
from anypo.data.records import prompt_id
from anypo.engine.base import Sampling
from anypo.generate.base import World
from anypo.generate.guided.demonstrations import steps, worked_only
from anypo.parts import Part
from anypo.roles.verdict import read
from anypo.tasks.base import Problem, Task

QUESTION = """Question:
{question}

The beginning of a solution:
{steps}

How likely is its last step right, from 0 (surely wrong) to {most} (surely right)? End with "Score: N"."""


def steps_of(text: str, delimiter: str) -> list[str]:
    """The steps of a text, which join to it: pieces that end with `delimiter` (every character for an empty one), blank ones as a part
    of the step before them."""
    out: list[str] = []
    for piece in steps(text, delimiter):
        if out and not (piece.strip() and out[-1].strip()):
            out[-1] += piece
        else:
            out.append(piece)
    return out


class Faults(Part, slot="faults"):
    """Who finds the first wrong step of an answer."""

    def suits(self, task: Task) -> str | None:
        """A sentence saying why nothing can be found in `task`, or None."""
        return None

    @abstractmethod
    def first(
        self, answers: Sequence[tuple[Problem, Sequence[str]]], world: World, context: Context
    ) -> list[int | None]:
        """For every (problem, steps of an answer) the place of its first wrong step, from 0; None where none is found."""


class Verdicts(Faults, name="verdicts"):
    """The model in the role `role` (a process reward model) is asked about every beginning of the answer whether its last step is
    right; the first wrong step is the first whose verdict, in [0, 1], is below `theta` (SCOPE, arXiv:2602.24110).

    question: what it is asked, with {question}, {steps} (the answer as far as that step) and {most}. The verdict is the last number
    after "score" of its reply, or else the last number, over `most`. A reply without one, and a beginning that is too long for the
    model, say nothing: such a step counts as right. Verdicts say where, and are paid to nobody.
    """

    role: str = "prm"
    theta: float = Field(0.5, ge=0.0, le=1.0)
    question: str = QUESTION
    most: float = Field(10.0, gt=0.0)
    max_new: int = Field(128, ge=1, description="most new tokens of a verdict")
    temperature: float = Field(0.0, ge=0.0)

    @field_validator("question")
    @classmethod
    def _asks(cls, question: str) -> str:
        if "{steps}" not in question:
            raise ValueError("it does not show the {steps}")
        return question

    def required(self) -> frozenset[str]:
        return super().required() | {f"model:{self.role}", f"model:{self.role}:ask"}

    def first(
        self, answers: Sequence[tuple[Problem, Sequence[str]]], world: World, context: Context
    ) -> list[int | None]:
        beginnings = [
            [self.asked(problem, "".join(said[: n + 1])) for n in range(len(said))] for problem, said in answers
        ]
        verdicts = self._verdicts(sorted({text for asked in beginnings for text in asked}), world, context)
        wrong = lambda text: (verdict := verdicts[text]) is not None and verdict < self.theta
        return [next((n for n, text in enumerate(asked) if wrong(text)), None) for asked in beginnings]

    def asked(self, problem: Problem, said: str) -> str:
        """What the model is asked about the beginning `said` of an answer."""
        before = parted(problem.messages)[0] or problem.messages
        told = {"{question}": "\n\n".join(str(m["content"]) for m in before if m["role"] != "system"), "{steps}": said}
        text = self.question.replace("{most}", f"{self.most:g}")
        for name, value in told.items():
            text = text.replace(name, value)
        return text

    def _verdicts(self, questions: Sequence[str], world: World, context: Context) -> dict[str, float | None]:
        model, sampling = world.models[self.role], Sampling(self.max_new, self.temperature)
        fitting = [q for q in questions if model.fits(({"role": "user", "content": q},), sampling)]
        messages = [({"role": "user", "content": q},) for q in fitting]
        seed = (context.seed, context.step, prompt_id("verdicts"))
        replies = model.ask(messages, sampling, seed) if fitting else []
        found = {q: read(reply, "number", self.most) for q, reply in zip(fitting, replies)}
        known = [verdict for verdict in found.values() if verdict is not None]
        context.log("generate/verdicts_read", len(known) / max(1, len(questions)))
        return dict.fromkeys(questions) | found


class Comparison(Faults, name="comparison"):
    """The first step that is not the worked solution's at the same place, ends of lines aside: exact where there is one way to write
    a solution, as in sums and other chains. On free text nearly every first step is another one."""

    delimiter: str = "\n"

    def suits(self, task: Task) -> str | None:
        return worked_only(task)

    def first(
        self, answers: Sequence[tuple[Problem, Sequence[str]]], world: World, context: Context
    ) -> list[int | None]:
        return [self._one(problem.solution, said) for problem, said in answers]

    def _one(self, solution: str, said: Sequence[str]) -> int | None:
        theirs = [step.strip() for step in steps_of(solution, self.delimiter)]
        differs = (n for n, step in enumerate(said) if n >= len(theirs) or step.strip() != theirs[n])
        return next(differs, None) if solution else None


__all__ = ["Comparison", "Faults", "Verdicts", "steps_of"]
