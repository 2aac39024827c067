"""Thinking a failed problem over: first in parts, then about what was wrong, with earlier successes of either kind as examples."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from anypo.data.content import reworded
from anypo.data.records import Trajectory
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.guides import Guide, _FromFile, _rows, question
from anypo.generate.repaired.retrieval import nearest
from anypo.tasks.base import Problem
from anypo.tasks.text.rows import column

if TYPE_CHECKING:
    from anypo.generate.guided.guiding import Guiding

DECOMPOSED, REVISED = "decomposed", "revised"
"""What the two stages are called, in memory and as the guidance of rollouts."""


@dataclass(frozen=True)
class Example:
    """A problem that was solved in one of the two ways. wrong: the answer that was revised."""

    question: str
    solution: str
    wrong: str = ""


SEEDS = (
    Example("How much is 12 + 7 + 5?", "First 12 + 7 = 19. Then 19 + 5 = 24. The answer is 24."),
    Example(
        "How much is 12 + 7 + 5?", "12 + 7 is 19, not 18. Then 19 + 5 = 24. The answer is 24.", "12 + 7 = 18, so 23."
    ),
)
"""What is shown before anything was solved: without an example the first success may never come."""


class Rethinking(_FromFile, name="rethinking"):
    """Two guides of a failed prompt. Level 0 asks to split the problem, to solve the parts in order and to conclude; level 1 shows an
    answer of this step that is wrong, and asks for a better one (Cog-Rethinker, arXiv:2510.15979).

    Either has up to `demos` examples in view, other problems that were solved in that way: the nearest ones by BM25 on the question,
    fewer where the model's context has no room. Examples are those of `file` (columns ``prompt``, ``solution`` and, of a revision,
    ``wrong``), or else one of each kind, and the latest `capacity` successes of the run. template, reflection: the texts of level 0
    and 1, with {prompt}, {demos}, and {wrong} in the latter. decomposed, revised: the text of one example, with {question},
    {solution} and {wrong}. Of the wrong answers the last whole one is shown.
    """

    kind = "rethinking"
    template: str = "{prompt}\n\nSplit this into smaller problems, solve them in order, then give the answer.{demos}"
    reflection: str = "{prompt}\n\nA wrong solution:\n{wrong}\n\nFind what is wrong in it and write a right one.{demos}"
    decomposed: str = "\n\nFor example:\n{question}\n{solution}"
    revised: str = "\n\nFor example:\n{question}\nWrong: {wrong}\nRight: {solution}"
    demos: int = Field(1, ge=0)
    capacity: int = Field(512, ge=0)
    stages: tuple[str, ...] = Field((DECOMPOSED, REVISED), description="which of the two, in this order")

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        if not stages or list(stages) != [stage for stage in (DECOMPOSED, REVISED) if stage in stages]:
            raise ValueError(f"give {DECOMPOSED}, {REVISED}, or both in this order")
        return stages

    def start(self) -> dict[str, Any]:
        return {DECOMPOSED: [], REVISED: []}

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        return [[guide.text for guide in ladder] for ladder in self.ladders(places, step)]

    def ladders(self, places: Sequence[int], step: Guiding) -> list[list[Guide]]:
        out = []
        for place in places:
            found = [self._guide(level, stage, place, step) for level, stage in enumerate(self.stages)]
            out.append([guide for guide in found if guide is not None])
        return out

    def _guide(self, level: int, stage: str, place: int, step: Guiding) -> Guide | None:
        """What a stage shows of the ask at `place`; None where there is nothing to reflect on, or no room even without examples."""
        problem, wrong = step.problems[place], ""
        if stage == REVISED:
            wrong = _wrong(step.made.get(place, ()), step)
            if not wrong:
                return None
        examples = self.examples(stage, question(problem), step)
        for count in range(len(examples), -1, -1):
            guide = self.shown(problem, stage, level, examples[:count], wrong)
            if step.fits(guide):
                return guide
        return None

    def examples(self, stage: str, asked: str, step: Guiding) -> list[Example]:
        """The nearest examples of a stage for a question, the nearest first."""
        given = _file(self.file) if self.file else SEEDS
        known = [one for one in given if bool(one.wrong) == (stage == REVISED)]
        known += [Example(*entry) for entry in step.context.memory[self][stage]]
        other = [one for one in known if one.question != asked]
        return [other[n] for n in nearest(asked, [one.question for one in other], self.demos)]

    def shown(self, problem: Problem, stage: str, level: int, examples: Sequence[Example], wrong: str = "") -> Guide:
        """The guide of a stage with these examples, the nearest last. Its text is the wrong answer, or else the examples."""
        one, whole = (self.decomposed, self.template) if stage == DECOMPOSED else (self.revised, self.reflection)
        demos = "".join(_filled(one, vars(example)) for example in reversed(examples))
        told: Callable[[str], str] = lambda asked: _filled(whole, {"prompt": asked, "wrong": wrong, "demos": demos})
        return Guide(wrong or demos.strip() or stage, reworded(problem.messages, told), level, stage)

    def learn(self, problem: Problem, guide: Guide, answer: Trajectory, step: Guiding) -> None:
        """Keep it as an example, in the place of an earlier one of the same question."""
        known, asked = step.context.memory[self][guide.kind], question(problem)
        known[:] = [entry for entry in known if entry[0] != asked]
        known.append([asked, answer.text.strip(), guide.text if guide.kind == REVISED else ""])
        del known[: max(0, len(known) - self.capacity)]
        step.context.log(f"generate/examples_{guide.kind}", float(len(known)))


def _wrong(made: Sequence[Trajectory], step: Guiding) -> str:
    """The last wrong answer that says something, a whole one if there is any."""
    wrong = [t for t in made if t.text.strip() and not solved(t, step.world.task)]
    return (([t for t in wrong if not t.truncated] or wrong)[-1].text.strip()) if wrong else ""


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its names replaced, once: what is put in is not read again."""
    names = "|".join(re.escape("{" + name + "}") for name in values)
    return re.sub(names, lambda match: values[match.group()[1:-1]], template)


@functools.lru_cache(maxsize=4)
def _file(file: str) -> tuple[Example, ...]:
    """The examples of a file."""
    return tuple(
        Example(str(column(row, "prompt", where)), str(column(row, "solution", where)), str(row.get("wrong") or ""))
        for where, row in _rows(file)
    )


__all__ = ["DECOMPOSED", "REVISED", "SEEDS", "Example", "Rethinking"]
