"""Answers that a model which sees nothing reasons out of what the policy says it sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.content import Content, Message, parted, pieces
from anypo.data.records import RIGHT, Group, Tokens, Trajectory, prompt_id
from anypo.engine.base import Sampling
from anypo.generate.base import World, answered, rollout_key
from anypo.generate.groups.auxiliary import Question, QuestionTask
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.demonstrations import demonstration, demonstrations
from anypo.generate.repaired.reports import filled
from anypo.generate.resume import Start, resume
from anypo.generate.trees.segments import _OneTurn
from anypo.outlook import Outlook
from anypo.policies.base import fits
from anypo.tasks.base import Problem, Task

DESCRIBE = "Describe this in full, so that somebody who cannot see it can answer any question about it."

REASON = """{question}

What you are to look at is this:
{description}

Answer as somebody who sees it: do not mention that it was described."""

DESCRIPTION = "description"
"""The key of answers that were reasoned out of one description: which."""

FITTING = "fitting"
"""What `extra` of an answer says: whether it is short enough to be trained on."""

VISUAL = "visual"
"""The reward component of a description: the share of the answers reasoned out of it that are right."""

DESCRIBING = -6
"""The role of descriptions in their keys."""


@dataclass(frozen=True)
class Scene:
    """A problem taken apart: what is to be looked at, and the words that are asked about it."""

    seen: tuple[Content, ...]
    asked: str


def scene(problem: Problem, picture: str) -> Scene | None:
    """What a problem shows and what it asks. Shown are the images and other content of its question that is no text, asked its text;
    or shown is the text that its metadata have under `picture`, asked the rest of the question. None where it shows nothing."""
    before = parted(problem.messages)[0] or problem.messages
    whole = pieces(before[-1]) if before else ()
    seen = tuple(piece for piece in whole if not isinstance(piece, str))
    text = "".join(piece for piece in whole if isinstance(piece, str))
    if seen:
        return Scene(seen, text.strip())
    shown = problem.metadata.get(picture)
    if not isinstance(shown, str) or not shown.strip() or shown not in text:
        return None
    return Scene((shown,), text.replace(shown, "", 1).strip())


class Described(_OneTurn, name="described"):
    """The policy describes what a problem shows, `samples` times; the model in the role `role`, which reads text only, reasons
    `traces` answers out of each description (semi-off-policy rollouts of SOPHIA, arXiv:2507.16814).

    Answers are demonstrations on the plain problem, with what it shows and without any description: one group a prompt, each with the
    key ``description``, its description's number, and the text in `extra`. Descriptions are groups of their own that are set aside,
    each with the share of its right answers as its reward (component ``visual``). picture: the metadata entry (a file's column) with
    the part of the question that only the policy sees, where it shows no images. describe, reason: what the policy is asked behind
    what it sees, and the reasoner, with {question} and {description}. described: most tokens of a description. heat: the reasoner's
    temperature. until: when the rollouts end (0: never). describer: a role that describes in the policy's place. Answers of more than
    `max_new` tokens, or with no room in the policy's context, count as right or wrong and are not trained on; a description that is
    too long for the reasoner has no answers.
    """

    provides = frozenset({"tag:demo", f"key:{DESCRIPTION}"})
    role: str = "reasoner"
    describer: str = ""
    traces: int = Field(8, ge=1, description="answers for each description")
    picture: str = "picture"
    describe: str = DESCRIBE
    reason: str = REASON
    described: int = Field(128, ge=1, description="most tokens of a description")
    heat: float = Field(1.0, ge=0.0, description="the reasoner's temperature")
    until: float = Field(0.0, ge=0.0, description="steps with rollouts, below 1 a share of the run; 0: all of it")

    @field_validator("reason")
    @classmethod
    def _tells(cls, reason: str) -> str:
        if "{description}" not in reason:
            raise ValueError("it does not tell the {description}")
        return reason

    def required(self) -> frozenset[str]:
        roles = filter(None, (self.role, self.describer))
        return super().required() | {f"model:{role}{what}" for role in roles for what in ("", ":ask")}

    def suits(self, task: Task) -> str | None:
        if any(scene(task.train(index), self.picture) for index in range(min(len(task), 64))):
            return super().suits(task)
        return (
            f"none of its problems shows anything that a reader of text would not see: no images, and no column '{self.picture}' "
            "with a part of the prompt; name the column with --set generate.picture=COLUMN"
        )

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.traces == 1:
            return "to descriptions: with one answer each they are judged by its luck; set generate.traces=8"
        return super().dormant(algorithm, outlook)

    def wants(self, planned: int, missing: int, context: Context) -> int:
        return 0 if self.until and context.step >= context.moment(self.until) else planned

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        shown = {n: found for n, problem in enumerate(problems) if (found := scene(problem, self.picture)) is not None}
        told = self._descriptions({n: (asks[n], problems[n], found) for n, found in shown.items()}, world, context)
        asked = [self._asked(problems[n], shown[n], t.text) for n, made in told.items() for t in made]
        said = iter(self._reasoned(asked, world, context))
        answers: dict[int, list[Trajectory]] = {}
        for n, descriptions in told.items():
            answers[n] = self._answers(problems[n], descriptions, [next(said) for _ in descriptions], world)
            told[n] = [_worth(t, k, answers[n], self.traces) for k, t in enumerate(descriptions)]
        if asks:
            context.log("generate/described_share", len(told) / len(asks))
        _log(told, answers, context)
        out = []
        for n, (ask, problem) in enumerate(zip(asks, problems)):
            if told.get(n):
                first = told[n][0]
                out.append(Group(first.prompt, tuple(told[n]), None, context.step, visit=ask.visit, aside=True))
            out.append(answered(ask, problem, answers.get(n, []), context))
        return out

    def _descriptions(
        self, wanted: Mapping[int, tuple[Ask, Problem, Scene]], world: World, context: Context
    ) -> dict[int, list[Trajectory]]:
        """What is said of every problem's picture, by place; nothing where the policy's context has no room for it."""
        looks = {n: self._look(problem, found) for n, (_, problem, found) in wanted.items()}
        room = {n: p for n, p in looks.items() if fits(world.policy, p.messages, self.described)}
        table = {p.prompt: Question("", lambda reply: 0.0, VISUAL) for p in room.values()}
        aside = World(QuestionTask(table), world.policy, world.sampler)  # type: ignore[arg-type]
        each = [(n, sample) for n in room for sample in range(wanted[n][0].samples)]
        sampling = dataclasses.replace(self.sampling(context), max_new=self.described)
        if self.describer:
            seed = (context.seed, context.step, prompt_id(self.describer))
            said = world.models[self.describer].ask([room[n].messages for n, _ in each], sampling, seed) if each else []
            texts = [world.policy.answer(text) for text in said]
            made = [demonstration(room[n], text, aside, sample) for (n, sample), text in zip(each, texts)]
        else:
            key = lambda n, sample: rollout_key(context, wanted[n][1], wanted[n][0].visit, DESCRIBING, sample)
            made = resume([Start(room[n], key(n, sample), sample=sample) for n, sample in each], aside, sampling)
        out: dict[int, list[Trajectory]] = {n: [] for n in room}
        for (n, _), trajectory in zip(each, made):
            out[n].append(trajectory)
        return out

    def _look(self, problem: Problem, found: Scene) -> Problem:
        """What a problem shows, with the request to describe it."""
        content: Any = [*found.seen, f"\n\n{self.describe}"]
        if all(isinstance(piece, str) for piece in content):
            content = "".join(content)
        return Problem(prompt_id(f"{problem.prompt} {self.describe}"), ({"role": "user", "content": content},))

    def _asked(self, problem: Problem, found: Scene, description: str) -> tuple[Message, ...]:
        """What the reasoner reads: the question and the description, and what the problem tells its system."""
        text = filled(self.reason, {"{question}": found.asked, "{description}": description.strip()})
        system = [message for message in problem.messages if message["role"] == "system"]
        return (*system, {"role": "user", "content": text})

    def _reasoned(self, asked: Sequence[tuple[Message, ...]], world: World, context: Context) -> list[list[str]]:
        """`traces` answers to every question; none where it is too long for the reasoner."""
        model, sampling = world.models[self.role], Sampling(self.max_new, self.heat)
        able = [model.fits(messages, sampling) for messages in asked]
        every = [messages for messages, one in zip(asked, able) if one for _ in range(self.traces)]
        said = iter(model.ask(every, sampling, (context.seed, context.step, prompt_id(self.role))) if every else [])
        return [[next(said) for _ in range(self.traces)] if one else [] for one in able]

    def _answers(
        self, problem: Problem, descriptions: Sequence[Trajectory], said: Sequence[Sequence[str]], world: World
    ) -> list[Trajectory]:
        """The answers to a plain problem, each scored as a whole. said: their texts by description."""
        tokens = [np.asarray(world.policy.answer(text)) for texts in said for text in texts]
        made = demonstrations(problem, tokens, world, self.max_new)
        homes = [k for k, texts in enumerate(said) for _ in texts]
        extras = [
            {DESCRIPTION: descriptions[k].text, RIGHT: solved(t, world.task), FITTING: self._fits(t, world)}
            for k, t in zip(homes, made)
        ]
        return [t.replace(keys={DESCRIPTION: k}, extra=extra) for k, t, extra in zip(homes, made, extras)]

    def _fits(self, answer: Trajectory, world: World) -> bool:
        assert isinstance(answer.content, Tokens)
        return len(answer) <= self.max_new and len(answer.content.tokens) <= world.policy.context


def _worth(description: Trajectory, number: int, answers: Sequence[Trajectory], of: int) -> Trajectory:
    """A description with its visual reward: how many of the `of` answers out of it are right (none of none)."""
    right = sum(bool(t.extra[RIGHT]) for t in answers if t.keys[DESCRIPTION] == number) / of
    return description.replace(reward=right, rewards={VISUAL: right}, weights={VISUAL: 1.0})


def _log(
    told: Mapping[int, Sequence[Trajectory]], answers: Mapping[int, Sequence[Trajectory]], context: Context
) -> None:
    """Mean visual reward, the share of answers that are right and that are too long to be trained on, and their tokens."""
    rewards = [t.reward for made in told.values() for t in made]
    every = [t for made in answers.values() for t in made]
    if rewards:
        context.log("generate/visual_reward", float(np.mean(rewards)))
    if every:
        context.log("generate/reasoned_right", float(np.mean([bool(t.extra[RIGHT]) for t in every])))
        context.log("generate/reasoned_too_long", float(np.mean([not t.extra[FITTING] for t in every])))
    context.log("generate/reasoned_tokens", float(sum(map(len, every))))


__all__ = ["DESCRIPTION", "FITTING", "VISUAL", "Described", "Scene", "scene"]
