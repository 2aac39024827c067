"""Rollouts beside what an expert wrote: anchors for hopeless groups, edits of failed answers, one-token rollouts along a text.

The expert text is a problem's `solution`. One-turn tasks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.content import parted
from anypo.data.records import ACTION, CONTEXT, DEMO, Group, Tokens, Trajectory, prompt_id
from anypo.errors import UserError
from anypo.generate.base import World, answered, rollout_key
from anypo.generate.conversation import told
from anypo.generate.groups.auxiliary import Question, QuestionTask
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, decisions, resume, words
from anypo.generate.trees.segments import _OneTurn
from anypo.outlook import Outlook
from anypo.tasks import step_all
from anypo.tasks.base import Problem, Task, worked


def demonstration(problem: Problem, text: np.ndarray, world: World, sample: int = 0) -> Trajectory:
    """The answer with tokens `text` as a trajectory that no policy sampled, scored by the task."""
    return demonstrations(problem, [text], world)[0].replace(sample=sample)


def demonstrations(problem: Problem, answers: Sequence[np.ndarray], world: World, limit: int = 1) -> list[Trajectory]:
    """Several answers to one problem, with the tokens of each, as trajectories that no policy sampled, with samples 0, 1, ... Their
    one-step environments are scored together, as of at most `limit` tokens, or as many as the longest has."""
    if not answers:
        return []
    environments = [world.task.environment(told(problem, world.policy)) for _ in answers]
    openings = [environment.reset() for environment in environments]
    prompt = world.policy.encode(openings[0])
    texts, sizes = [world.policy.decode(tokens) for tokens in answers], [len(tokens) for tokens in answers]
    replies = step_all(environments, texts, sizes, max(limit, *sizes))
    return [
        Trajectory(
            prompt=problem.prompt,
            content=Tokens(
                np.concatenate([prompt, tokens]).astype(np.int32),
                np.array([CONTEXT] * len(prompt) + [ACTION] * len(tokens), dtype=np.int8),
            ),
            logp=np.zeros(len(tokens)),
            version=np.full(len(tokens), -1, dtype=np.int64),
            rewards=dict(reply.rewards),
            weights=world.task.weights,
            reward=sum(weight * reply.rewards.get(name, 0.0) for name, weight in world.task.weights.items()),
            text=text,
            sample=sample,
            guidance=DEMO,
        )
        for sample, (tokens, text, reply) in enumerate(zip(answers, texts, replies))
    ]


def solution(problem: Problem, world: World, limit: int) -> np.ndarray:
    """Tokens of the problem's solution, at most `limit` and as the model's context has room; `UserError` when the task has none."""
    if not problem.solution:
        raise UserError(
            f"task '{world.task.name}' has no worked solutions, which this method learns from; choose a task that has"
        )
    room = world.policy.context - len(world.policy.encode(problem.messages))
    return np.asarray(world.policy.answer(problem.solution))[: max(0, min(limit, room))]


UNWORKED = (
    "it has no worked solutions; name their column with --task-set solution=COLUMN, or choose a task that has them"
)


def worked_only(task: Task) -> str | None:
    """Why a method that learns from worked solutions cannot work on `task`, or None."""
    return None if worked(task) else UNWORKED


class Anchored(_OneTurn, name="anchored"):
    """Independent rollouts; a group with fewer than `least` right ones gets the problem's solution as a further member,
    so that its failures have a negative and the solution a positive advantage (off-policy anchors of DaGRPO,
    arXiv:2512.06337)."""

    traced = True
    provides = frozenset({"tag:demo"})
    least: int = Field(1, ge=0)

    def suits(self, task: Task) -> str | None:
        return worked_only(task) or super().suits(task)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        out, added = [], 0
        for group in groups:
            right = sum(t.reward >= 1 - 1e-9 for t in group.trajectories)
            if right < self.least:
                text = solution(group.problem, world, self.max_new)
                anchor = demonstration(group.problem, text, world, len(group.trajectories))
                group = group.replace(trajectories=(*group.trajectories, anchor))
                added += 1
            out.append(group)
        context.log("generate/anchored_share", added / max(1, len(out)))
        return out


REVIEW = """{question}

A student's attempt, step by step:
{steps}

A correct solution:
{solution}

Find the first wrong step of the attempt, and write one step that should stand in its place. Do not solve the rest. Answer in the form
Step: <its number>
Replacement: <the new step>"""


class Interventions(_OneTurn, name="interventions"):
    """Independent rollouts; the policy reviews every failed one of its own beside the solution, and says which step is the first wrong
    one and what should stand in its place (interventions of InT, arXiv:2601.14209).

    The part of the answer before that step and the replacement become a demonstration, and nothing after them, provided at
    least one of `continuations` rollouts from there succeeds. Each demonstration is a group of its own. A review that names no step
    of the answer, or replaces it by nothing, by itself or by more than `reply` tokens, is thrown away. Steps end with `delimiter`;
    an empty one makes every character a step.

    `review`: ``self``, as described, asked with the text `template` (``{question}``, ``{steps}``, ``{solution}``); or ``comparison``,
    for policies that cannot read instructions: the first step that is not the solution's is replaced by the solution's. On free text
    that is imitation of the solution, since no two people write the same first line.
    """

    provides = frozenset({"tag:demo"})
    delimiter: str = "\n"
    continuations: int = Field(32, ge=1)
    review: Literal["self", "comparison"] = "self"
    reply: int = Field(200, ge=1, description="most tokens of a review")
    template: str = REVIEW

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.task is not None and not worked(outlook.task):
            return (
                "to failed answers: they are reviewed beside worked solutions, and the task has none; name their column with "
                "--task-set solution=COLUMN, or choose a task that has them"
            )
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        edits, homes, starts = [], [], []
        failed = [
            (group, t) for group in groups for t in group.trajectories if group.problem.solution and t.reward < 1 - 1e-9
        ]
        for (group, trajectory), found in zip(failed, self._reviews(failed, world, context)):
            edited = self._edit(trajectory, found, world)
            if edited is not None:
                demo = demonstration(group.problem, edited, world, trajectory.sample)
                edits.append(demo)
                homes.append(group)
                for n in range(self.continuations):
                    key = rollout_key(context, group.problem, group.visit, -2, trajectory.sample, n)
                    starts.append(Start(group.problem, key, demo, len(edited)))
        done = resume(starts, world, self.sampling(context))
        best = np.array([t.reward for t in done]).reshape(-1, self.continuations)
        kept = [
            home.replace(trajectories=(edit,))
            for home, edit, rewards in zip(homes, edits, best)
            if rewards.max() >= 1 - 1e-9
        ]
        context.log("generate/interventions", len(kept))
        return groups + kept

    def _reviews(
        self, failed: Sequence[tuple[Group, Trajectory]], world: World, context: Context
    ) -> list[tuple[str, str] | None]:
        """For every failed answer the part before its first wrong step, and the replacement; None where none was found."""
        if self.review == "comparison":
            return [first_difference(t.text, group.problem.solution, self.delimiter) for group, t in failed]
        asked = [self._question(group.problem, t) for group, t in failed]
        table = {p.prompt: Question(p.messages[-1]["content"], lambda reply: 0.0, "review") for p in asked}
        room = [len(world.policy.encode(p.messages)) + self.reply < world.policy.context for p in asked]
        starts = [
            Start(p, rollout_key(context, group.problem, group.visit, REVIEWING, t.sample), most=self.reply)
            for (group, t), p, fits in zip(failed, asked, room)
            if fits
        ]
        aside = World(QuestionTask(table), world.policy, world.sampler)  # type: ignore[arg-type]
        said = iter(resume(starts, aside, self.sampling(context)))
        found = [
            proposed(next(said).text, t.text, self.delimiter) if fits else None for (_, t), fits in zip(failed, room)
        ]
        if found:
            context.log("generate/reviewed", float(np.mean([one is not None for one in found])))
        return found

    def _question(self, problem: Problem, trajectory: Trajectory) -> Problem:
        """The review of a failed answer, as a problem."""
        numbered = "\n".join(
            f"{number}. {step.strip()}" for number, step in enumerate(steps(trajectory.text, self.delimiter), 1)
        )
        opening = (parted(problem.messages)[0] or problem.messages)[-1]["content"]
        parts = {"{question}": opening, "{steps}": numbered, "{solution}": problem.solution}
        text = re.sub("|".join(map(re.escape, parts)), lambda match: parts[match.group()], self.template)
        return Problem(prompt_id(text), ({"role": "user", "content": text},))

    def _edit(self, trajectory: Trajectory, found: tuple[str, str] | None, world: World) -> np.ndarray | None:
        """Tokens up to the first wrong step and the replacement; None when nothing was found or nothing is left to write."""
        if found is None:
            return None
        kept, step = found
        own = decisions(trajectory)
        cut = max((t for t in range(len(own) + 1) if kept.startswith(world.policy.decode(own[:t]))), default=0)
        if world.policy.decode(own[:cut]) != kept:
            return None
        edited = np.concatenate([own[:cut], words(world.policy, step)])
        return edited if cut < len(edited) < self.max_new else None


REVIEWING = -3
"""The role of reviews in their keys."""


def proposed(review: str, text: str, delimiter: str) -> tuple[str, str] | None:
    """The part of `text` before the step that a review names, and the step to put in its place; None for a review that cannot be read,
    names a step that is not there, or changes nothing."""
    match = re.search(r"step\W*(\d+).*?replacement\W*:\s*(.+)", review, re.IGNORECASE | re.DOTALL)
    ours = steps(text, delimiter)
    if match is None or not 1 <= int(match.group(1)) <= len(ours):
        return None
    at, step = int(match.group(1)) - 1, steps(match.group(2).strip(), delimiter)[0].strip()
    if not step or step == ours[at].strip():
        return None
    return "".join(ours[:at]), step + (delimiter if ours[at].endswith(delimiter) else "")


def first_difference(text: str, reference: str, delimiter: str) -> tuple[str, str] | None:
    """The part of `text` before its first step that is not the reference's, and the reference's step there; None when
    none is."""
    ours, theirs = (steps(t, delimiter) for t in (text, reference))
    for at, step in enumerate(theirs):
        if at >= len(ours) or ours[at].strip() != step.strip():
            return "".join(ours[:at]), step
    return None


def steps(text: str, delimiter: str) -> list[str]:
    """The text cut after every delimiter (every character for an empty one); the pieces join to the text."""
    if not delimiter:
        return list(text)
    pieces = [piece + delimiter for piece in text.split(delimiter)]
    pieces[-1] = pieces[-1][: -len(delimiter)]
    return [piece for piece in pieces if piece]


class OneToken(_OneTurn, name="one_token"):
    """Along the problem's solution, every position is a rollout of a single token (one-token rollouts, arXiv:2509.26313).

    From each prefix of the solution `draws` tokens are drawn at `temperature` (one forward pass over the solution serves
    all); one that equals the solution's next token earns 1, any other `penalty`. Equal tokens of one position are one
    trajectory with its count in `extra` (``count``); a solution's positions form one group.
    """

    by_itself = True
    draws: int = Field(256, ge=1)
    temperature: float = Field(1.3, gt=0.0)
    penalty: float = -0.1

    def suits(self, task: Task) -> str | None:
        return worked_only(task)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        texts = [demonstration(p, solution(p, world, self.max_new), world) for p in problems]
        chance = (next_logits(world.policy, texts).double() / self.temperature).softmax(-1).numpy()
        groups, row = [], 0
        for ask, problem, text in zip(asks, problems, texts):
            assert isinstance(text.content, Tokens)
            members: list[Trajectory] = []
            for t, at in enumerate(text.content.actions.tolist()):
                generator = np.random.default_rng(rollout_key(context, problem, ask.visit, 37, t))
                drawn = np.flatnonzero(counts := generator.multinomial(self.draws, chance[row] / chance[row].sum()))
                state, gold = text.content.tokens[:at], int(text.content.tokens[at])
                members += self._counted(problem, state, gold, drawn, counts[drawn], len(members))
                row += 1
            groups.append(answered(ask, problem, members, context))
        return groups

    def _counted(
        self, problem: Problem, state: np.ndarray, gold: int, tokens: np.ndarray, counts: np.ndarray, first: int
    ) -> list[Trajectory]:
        roles = np.array([CONTEXT] * len(state) + [ACTION], dtype=np.int8)
        return [
            Trajectory(
                prompt=problem.prompt,
                content=Tokens(np.append(state, token).astype(np.int32), roles),
                logp=np.zeros(1),
                version=np.full(1, -1, dtype=np.int64),
                reward=1.0 if token == gold else self.penalty,
                sample=first + place,
                extra={"count": int(count)},
            )
            for place, (token, count) in enumerate(zip(tokens.tolist(), counts.tolist()))
        ]
