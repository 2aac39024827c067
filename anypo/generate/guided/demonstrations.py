"""Rollouts beside what an expert wrote: anchors for hopeless groups, edits of failed answers, one-token rollouts along a text.

The expert text is a problem's `solution`. One-turn tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import ACTION, CONTEXT, DEMO, Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.generate.base import World, answered, rollout_key
from anypo.generate.conversation import told
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, decisions, resume, words
from anypo.generate.trees.segments import _OneTurn
from anypo.tasks import step_all
from anypo.tasks.base import Problem


def demonstration(problem: Problem, text: np.ndarray, world: World, sample: int = 0) -> Trajectory:
    """The answer with tokens `text` as a trajectory that no policy sampled, scored by the task."""
    environment = world.task.environment(told(problem, world.policy))
    prompt = world.policy.encode(environment.reset())
    reply = step_all([environment], [world.policy.decode(text)], [len(text)], max(1, len(text)))[0]
    rewards = dict(reply.rewards)
    n = len(text)
    return Trajectory(
        prompt=problem.prompt,
        content=Tokens(
            np.concatenate([prompt, text]).astype(np.int32),
            np.array([CONTEXT] * len(prompt) + [ACTION] * n, dtype=np.int8),
        ),
        logp=np.zeros(n),
        version=np.full(n, -1, dtype=np.int64),
        rewards=rewards,
        weights=world.task.weights,
        reward=sum(weight * rewards.get(name, 0.0) for name, weight in world.task.weights.items()),
        text=world.policy.decode(text),
        sample=sample,
        guidance=DEMO,
    )


def solution(problem: Problem, world: World, limit: int) -> np.ndarray:
    """Tokens of the problem's solution, at most `limit`; `UserError` when the task has none."""
    if not problem.solution:
        raise UserError(
            f"task '{world.task.name}' has no worked solutions, which this method learns from; choose a task that has"
        )
    return np.asarray(world.policy.answer(problem.solution))[:limit]


class Anchored(_OneTurn, name="anchored"):
    """Independent rollouts; a group with fewer than `least` right ones gets the problem's solution as a further member,
    so that its failures have a negative and the solution a positive advantage (off-policy anchors of DaGRPO,
    arXiv:2512.06337)."""

    traced = True
    provides = frozenset({"tag:demo"})
    least: int = Field(1, ge=0)

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


class Interventions(_OneTurn, name="interventions"):
    """Independent rollouts; every failed one is compared with the solution step by step, and its first wrong step is
    replaced by the solution's (interventions of InT, arXiv:2601.14209, with the comparison in the place of the model's
    own review).

    The part of the answer before that step and the replacement become a demonstration, and nothing after them, provided at
    least one of `continuations` rollouts from there succeeds. Each demonstration is a group of its own. Steps end with
    `delimiter`; an empty one makes every character a step.
    """

    provides = frozenset({"tag:demo"})
    delimiter: str = "\n"
    continuations: int = Field(32, ge=1)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        edits, homes, starts = [], [], []
        for group in groups:
            for trajectory in group.trajectories:
                if trajectory.reward >= 1 - 1e-9 or not group.problem.solution:
                    continue
                edited = self._edit(trajectory, group.problem, world)
                if edited is None:
                    continue
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

    def _edit(self, trajectory: Trajectory, problem: Problem, world: World) -> np.ndarray | None:
        """Tokens up to the first wrong step and the replacement; None when no step differs or nothing is left to write."""
        found = first_difference(trajectory.text, problem.solution, self.delimiter)
        if found is None:
            return None
        kept, step = found
        own = decisions(trajectory)
        cut = max((t for t in range(len(own) + 1) if kept.startswith(world.policy.decode(own[:t]))), default=0)
        if world.policy.decode(own[:cut]) != kept:
            return None
        edited = np.concatenate([own[:cut], words(world.policy, step)])
        return edited if cut < len(edited) < self.max_new else None


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

    draws: int = Field(256, ge=1)
    temperature: float = Field(1.3, gt=0.0)
    penalty: float = -0.1

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
