"""Learning from worked solutions: what the task's author wrote, instead of rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import ACTION, CONTEXT, DEMO, Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.replay.base import Replay
from anypo.tasks.base import Problem, Task, worked


class Solutions(Replay, name="solutions"):
    """The worked solutions of `examples` training problems per step, each a group of its own; fresh rollouts are left alone.

    Every problem once per pass, in an order drawn anew for every pass; a batch may span two passes. Problems without a solution
    are left out of their batch. The trajectories are demonstrations: log-probability 0, version -1, reward 0.
    """

    provides = frozenset({"tag:demo", "unrewarded"})
    examples: int = Field(64, ge=1, description="worked solutions per step")

    def suits(self, task: Task) -> str | None:
        if worked(task):
            return None
        return "it has no worked solutions; name their column with --task-set solution=COLUMN, or choose a task that has them"

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        world, groups = context.world, []
        for visit, index in drawn(len(world.task), self.examples, context):
            problem = world.task.train(index)
            if problem.solution:
                group = Group(problem.prompt, (demonstration(problem, world.policy),), problem)
                groups.append(group.replace(step=context.step, index=index, visit=visit))
        if not groups:
            raise UserError(f"task '{world.task.name}': none of the {self.examples} problems of a step has a solution")
        return groups


class Pairs(Replay, name="pairs"):
    """`examples` pairs of a chosen and a rejected answer per step, each a group with the tags ``chosen`` and ``rejected``; the order
    is that of `solutions`. The task must be one of preferences (`anypo.tasks.text.pairs`)."""

    provides = frozenset({"tag:chosen", "tag:rejected", "unrewarded"})
    examples: int = Field(64, ge=1, description="pairs per step")

    def suits(self, task: Task) -> str | None:
        if len(task) and "rejected" in task.train(0).metadata:
            return None
        return "it has no preferences; give a file with the columns prompt, chosen and rejected"

    def select(self, fresh: list[Group], version: int, context: Context) -> list[Group]:
        world = context.world
        return [
            pair(world.task.train(index), world.policy).replace(step=context.step, index=index, visit=visit)
            for visit, index in drawn(len(world.task), self.examples, context)
        ]


def pair(problem: Problem, policy: Any) -> Group:
    """The chosen and the rejected answer of a problem of preferences, in this order."""
    chosen = demonstration(problem, policy, tag="chosen")
    rejected = demonstration(problem, policy, problem.metadata["rejected"], tag="rejected", sample=1)
    return Group(problem.prompt, (chosen, rejected), problem)


def demonstration(problem: Problem, policy: Any, text: str | None = None, tag: str = "", sample: int = 0) -> Trajectory:
    """A problem and an answer to it (its solution, unless a `text` is given) as a trajectory that no policy sampled. Raises
    `UserError` where the policy's context is too short for both."""
    text = problem.solution if text is None else text
    prompt, target = np.asarray(policy.encode(problem.messages)), np.asarray(policy.answer(text))
    room = getattr(policy, "context", None)
    if room is not None and len(prompt) + len(target) > room:
        raise UserError(
            f"the answer to problem {problem.prompt} has {len(prompt) + len(target)} tokens with its prompt, more than the "
            f"model's context of {room}; shorten it or leave it out"
        )
    return Trajectory(
        prompt=problem.prompt,
        content=Tokens(
            np.concatenate([prompt, target]).astype(np.int32),
            np.repeat(np.array([CONTEXT, ACTION], dtype=np.int8), [len(prompt), len(target)]),
        ),
        logp=np.zeros(len(target)),
        version=np.full(len(target), -1, dtype=np.int64),
        text=text,
        guidance=DEMO,
        tag=tag,
        sample=sample,
    )


def drawn(count: int, size: int, context: Context) -> list[tuple[int, int]]:
    """Pass and index of the `size` problems of a step, out of `count`, in the order of `anypo.update.sft`."""
    places = [divmod(at, count) for at in range(context.step * size, (context.step + 1) * size)]
    orders = {epoch: np.random.default_rng([context.seed, epoch]).permutation(count) for epoch, _ in places}
    return [(epoch, int(orders[epoch][place])) for epoch, place in places]
