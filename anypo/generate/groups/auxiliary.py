"""A second verifiable task made from the policy's own rollouts: judging them, repairing them, predicting what their
programs do.

Auxiliary questions are ordinary prompts with groups, rewards and advantages of their own, in the same batch as the rollouts
they come from; the judged text is context, so only the judge's tokens are trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.content import parted
from anypo.data.records import Group, Trajectory, prompt_id
from anypo.generate.base import World, rollout_key
from anypo.generate.resume import Start, resume
from anypo.generate.trees.segments import _OneTurn
from anypo.parts import Part
from anypo.tasks import step_all
from anypo.tasks.base import Environment, Problem, Reply


@dataclass(frozen=True)
class Question:
    """An auxiliary problem: what is asked, how an answer is paid, and the reward component it is recorded under. label: the right
    answer where there are few to choose from; of one kind, as many questions of every label are asked."""

    text: str
    grade: Callable[[str], float]
    kind: str
    label: str = ""


class Auxiliary(Part, slot="auxiliary"):
    """Makes questions out of one group of rollouts."""

    def questions(self, group: Group, world: World, generator: np.random.Generator) -> list[Question]:
        raise NotImplementedError


class SelfJudging(Auxiliary, name="self_judging"):
    """The policy judges and repairs its own answers, with the verifier's verdicts as labels (SPARK, arXiv:2509.22624).

    pointwise: is this answer correct? (as many right as wrong ones are asked about over the step, so that a policy that is mostly
    wrong does not learn to say no). pairwise: which of a right and a wrong answer is better? (order at random). reflection: a
    wrong answer is shown, and a better one asked for; a verdict of the policy's own is not put beside it. Answers cut off by
    the length limit are not judged. A group whose answers are all alike gives pointwise questions only.
    """

    kinds: tuple[str, ...] = ("pointwise", "pairwise", "reflection")
    yes: str = "yes"
    no: str = "no"

    def questions(self, group: Group, world: World, generator: np.random.Generator) -> list[Question]:
        whole = [t for t in group.trajectories if not t.truncated]
        right = [t for t in whole if t.reward >= 1 - 1e-9]
        wrong = [t for t in whole if t.reward < 1 - 1e-9]
        out: list[Question] = []
        opening = (parted(group.problem.messages)[0] or group.problem.messages)[-1]["content"]
        if "pointwise" in self.kinds:
            size = max(1, min(len(right), len(wrong)))
            out += [self._point(opening, t, self.yes) for t in right[:size]]
            out += [self._point(opening, t, self.no) for t in wrong[:size]]
        if right and wrong:
            if "pairwise" in self.kinds:
                out.append(self._pair(opening, right[0], wrong[0], bool(generator.integers(2))))
            if "reflection" in self.kinds:
                out.append(self._reflect(opening, wrong[0], group.problem, world))
        return [out[i] for i in generator.permutation(len(out))]

    def _point(self, opening: str, judged: Trajectory, target: str) -> Question:
        text = f"{opening}\nAnswer: {judged.text.strip()}\nIs the answer correct? {self.yes} or {self.no}:"
        return Question(text, lambda reply: float(first_word(reply) == target), "judge_point", target)

    def _pair(self, opening: str, right: Trajectory, wrong: Trajectory, swap: bool) -> Question:
        first, second = (wrong, right) if swap else (right, wrong)
        target = "2" if swap else "1"
        text = f"{opening}\nAnswer 1: {first.text.strip()}\nAnswer 2: {second.text.strip()}\nWhich is better? 1 or 2:"
        return Question(text, lambda reply: float(first_word(reply) == target), "judge_pair")

    def _reflect(self, opening: str, wrong: Trajectory, problem: Problem, world: World) -> Question:
        text = f"{opening}\nA wrong answer: {wrong.text.strip()}\nA better answer:"

        def grade(reply: str) -> float:
            verdict = world.task.environment(problem)
            verdict.reset()
            rewards = step_all([verdict], [reply], [1], 1)[0].rewards
            return sum(weight * rewards.get(name, 0.0) for name, weight in world.task.weights.items())

        return Question(text, grade, "reflection")


def first_word(text: str) -> str:
    """The first word or number of a reply in lower case ('' for none)."""
    match = re.search(r"[A-Za-z]+|\d+", text)
    return match.group().lower() if match else ""


@dataclass(frozen=True)
class QuestionTask:
    """The auxiliary questions of one step as a task. `name`, `weights`, `outcome` as in `anypo.tasks.base.Task`."""

    table: Mapping[int, Question]
    name: str = "auxiliary"
    outcome: str = "auxiliary"

    @property
    def weights(self) -> Mapping[str, float]:
        return {question.kind: 1.0 for question in self.table.values()}

    def environment(self, problem: Problem) -> Environment:
        return Asked(self.table[problem.prompt], problem)


@dataclass(frozen=True)
class Asked:
    """One auxiliary question."""

    question: Question
    problem: Problem

    def reset(self) -> tuple[Mapping[str, str], ...]:
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        return Reply({self.question.kind: self.question.grade(text)})


QUESTIONS = 1
"""The role of auxiliary answers in their keys, which are those of the rollouts they are asked about."""

T = TypeVar("T")


class WithAuxiliary(_OneTurn, name="with_auxiliary"):
    """Independent rollouts, then up to `share` auxiliary questions per prompt with `answers` rollouts each (rounded over
    the whole step; 0 gives plain independent groups)."""

    auxiliary: Auxiliary = SelfJudging()
    share: float = Field(1.0, ge=0.0)
    answers: int = Field(8, ge=1)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        wanted = round(self.share * len(groups))
        if not wanted:
            return groups
        offered = [
            [(group, place, q) for place, q in enumerate(self._questions(group, world, context))]
            for group in sorted(
                groups, key=lambda group: (group.prompt, group.visit)
            )  # whatever order they were asked in
        ]
        chosen = balanced(round_robin(offered), wanted, lambda offer: (offer[2].kind, offer[2].label))
        asked = [
            (Problem(prompt_id(q.text), ({"role": "user", "content": q.text},)), q, group, place)
            for group, place, q in chosen
        ]
        asked = [a for a in asked if len(world.policy.encode(a[0].messages)) + self.max_new < world.policy.context]
        task = QuestionTask({p.prompt: q for p, q, _, _ in asked})
        starts = [
            Start(p, rollout_key(context, group.problem, group.visit, QUESTIONS, place, n), sample=n)
            for p, _, group, place in asked
            for n in range(self.answers)
        ]
        done = iter(resume(starts, World(task, world.policy, world.sampler), self.sampling(context)))  # type: ignore[arg-type]
        fresh = [
            Group(p.prompt, tuple(next(done) for _ in range(self.answers)), p, context.step, visit=group.visit)
            for p, _, group, _ in asked
        ]
        context.log("generate/auxiliary_groups", len(fresh))
        for group, (_, question, _, _) in zip(fresh, asked):
            context.log(f"generate/{question.kind}", float(group.rewards.mean()))
        return groups + fresh

    def _questions(self, group: Group, world: World, context: Context) -> list[Question]:
        """What one group of rollouts gives to ask, in an order of its own."""
        generator = np.random.default_rng(rollout_key(context, group.problem, group.visit, QUESTIONS, 0))
        return self.auxiliary.questions(group, world, generator)


def round_robin(offered: Sequence[Sequence[T]]) -> list[T]:
    """All questions, one from every prompt in turn."""
    deepest = max((len(questions) for questions in offered), default=0)
    return [questions[depth] for depth in range(deepest) for questions in offered if depth < len(questions)]


def balanced(offers: Sequence[T], wanted: int, labelled: Callable[[T], tuple[str, str]]) -> list[T]:
    """The first `wanted` of the offers, with as many of either label of one kind (`labelled` gives both; label '': none): an offer
    with a label waits for one with another, and stays behind where none comes."""
    waiting: dict[str, list[T]] = {}
    out: list[T] = []
    for offer in offers:
        kind, label = labelled(offer)
        queue = waiting.setdefault(kind, [])
        if not label:
            out += [offer][: wanted - len(out)]
        elif queue and labelled(queue[0])[1] != label:
            if len(out) + 2 <= wanted:
                out += [queue.pop(0), offer]
        else:
            queue.append(offer)
    return out
