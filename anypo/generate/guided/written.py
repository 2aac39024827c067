"""Guides that have to be found first: hints that the policy writes itself, and the shortest beginning of a solution that helps."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from anypo.engine.base import Request, Sampling
from anypo.errors import UserError
from anypo.generate.base import rollout_key
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.guides import UNSOLVED, Guides, Prefixes, begun, question, trace, traced
from anypo.tasks.base import Problem, Task, hinted

if TYPE_CHECKING:
    from anypo.generate.guided.guiding import Guiding

TUTOR = """You are a tutor. Write three hints that help a student with the question below without giving the solution away.
None of them says the final answer. The first names the key idea. The second says more of the method or of a step between. The third
is detailed, and still leaves the end to the student.
Answer with one JSON object: {"level_1": "...", "level_2": "...", "level_3": "..."}

Question:
{question}

Solution:
{solution}"""

TUTORED = -4
"""The role of written hints in their keys."""


class Written(Guides, name="written"):
    """Hints that the present policy writes itself, shown the solution, in one JSON object of three levels (SAGE, arXiv:2602.03143).

    They are asked for anew at every need, up to `attempts` times while the reply cannot be read, at `temperature` (0 repeats itself),
    with at most `reply` tokens; what is written is not trained. otherwise: the hints of a policy that cannot write any (its replies
    cannot be read, or its context is too short to ask): those of the task, or none. request: the text, with ``{question}`` and
    ``{solution}``.
    """

    kind = "written"
    template: str = "Question:\n{prompt}\n\nHere is a hint to help you:\n{guide}"
    attempts: int = Field(3, ge=1)
    temperature: float = Field(1.0, ge=0.0)
    reply: int = Field(512, ge=1)
    otherwise: Literal["task", "none"] = "task"
    request: str = TUTOR

    def suits(self, task: Task) -> str | None:
        if self.otherwise == "none" or hinted(task) or traced(task):
            return None
        return f"there is nothing to write hints from: {UNSOLVED}"

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        found: dict[int, Sequence[str]] = {}
        asked = {place: tokens for place in places if (tokens := self._asked(step.problems[place], step)) is not None}
        for attempt in range(self.attempts):
            waiting = [place for place in asked if place not in found]
            sampling = Sampling(self.reply, self.temperature)
            requests = [
                Request(
                    asked[p],
                    sampling,
                    (*rollout_key(step.context, step.problems[p], step.asks[p].visit, TUTORED, attempt), 0),
                )
                for p in waiting
            ]
            for place, completion in zip(waiting, step.world.sampler.generate(requests) if requests else ()):
                hints = written(step.world.policy.decode(completion.tokens))
                if hints:
                    found[place] = hints
        step.context.log("generate/written_share", len(found) / max(1, len(places)))
        spare = lambda place: step.problems[place].hints if self.otherwise == "task" else ()
        return [found[place] if place in found else spare(place) for place in places]

    def _asked(self, problem: Problem, step: Guiding) -> Any:
        """The tokens of the request for a problem; None where there is no solution to write from, or no room to ask and to reply."""
        solution = trace(problem) or problem.answer
        policy = step.world.policy
        if not solution:
            return None
        text = re.sub(
            r"\{(question|solution)\}",
            lambda match: {"question": question(problem), "solution": solution}[match.group(1)],
            self.request,
        )
        try:
            tokens = policy.encode(({"role": "user", "content": text},))
        except UserError:  # longer than the whole context, or a policy that reads nothing of the kind
            return None
        return tokens if len(tokens) + self.reply <= policy.context else None


def written(reply: str) -> list[str]:
    """The hints of a reply, the least telling first: the texts under ``level_1``, ``level_2`` and ``level_3`` of the first JSON object
    that has any; none where there is no such object. Braces and backslashes of formulas are no obstacle."""
    whole = _escaped(reply)
    for begin in re.finditer(r"\{", whole):
        try:
            said, _ = json.JSONDecoder(strict=False).raw_decode(whole, begin.start())
        except (ValueError, RecursionError):
            continue
        levels = [said.get(f"level_{n}") for n in (1, 2, 3)]
        hints = [hint.strip() for hint in levels if isinstance(hint, str) and hint.strip()]
        if hints:
            return hints
    return []


def _escaped(text: str) -> str:
    """`text` whose backslashes stand for themselves where JSON knows none or has one that no hint means (``\\(x\\)``, ``\\frac``)."""
    return re.sub(r'\\(["\\/n]|u[0-9a-fA-F]{4})|\\', lambda found: found.group() if found.group(1) else r"\\", text)


class Shortest(Guides, name="shortest_prefix"):
    """The shortest beginning of a prompt's solution behind which one of `tries` rollouts is right, out of `pieces` of equal length;
    the longest one where none is (POPE, arXiv:2601.18779). It ends before the answer is said for the first time.

    It is looked for when a prompt first needs one, with the policy of that moment, and then kept. The rollouts of the search are set
    aside: counted, not trained on.
    """

    kind = "prefix"
    template: str = "{prompt}\n\nHere is the beginning of a solution. Continue from it and finish the problem:\n{guide}"
    pieces: int = Field(4, ge=1)
    tries: int = Field(4, ge=1)

    def start(self) -> dict[str, Any]:
        return {"kept": {}}

    def suits(self, task: Task) -> str | None:
        return Prefixes().suits(task)

    def texts(self, places: Sequence[int], step: Guiding) -> list[Sequence[str]]:
        kept: dict[int, int] = step.context.memory[self]["kept"]
        ladders = {
            p: begun(step.problems[p], [n / self.pieces for n in range(1, self.pieces + 1)], True) for p in places
        }
        fresh = {step.problems[p].prompt: p for p in places if ladders[p] and step.problems[p].prompt not in kept}
        for level in range(self.pieces):
            searched = [p for prompt, p in fresh.items() if prompt not in kept and level < len(ladders[p])]
            wishes = [
                (p, self.guide(step.problems[p], ladders[p][level], level), SEARCHED + n)
                for p in searched
                for n in range(self.tries)
            ]
            made = step.play(wishes)
            for at, place in enumerate(searched):
                tried = made[at * self.tries : (at + 1) * self.tries]
                step.aside.append(step.group(place, tried).replace(aside=True))
                if any(solved(t, step.world.task) for t in tried):
                    kept[step.problems[place].prompt] = level
        for prompt, place in fresh.items():
            kept.setdefault(prompt, len(ladders[place]) - 1)
        if ladders:
            known = [kept[step.problems[p].prompt] for p in places if ladders[p]]
            step.context.log("generate/prefix_pieces", sum(known) / max(1, len(known)) + 1)
        return [
            [ladders[p][min(kept[step.problems[p].prompt], len(ladders[p]) - 1)]] if ladders[p] else [] for p in places
        ]


SEARCHED = 1_000_000
"""Where the sample numbers of a search begin."""

__all__ = ["Shortest", "Written", "written"]
