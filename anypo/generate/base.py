"""The generate room's interface, and independent groups: n separate rollouts of every prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Trajectory
from anypo.engine.base import Sampler, Sampling
from anypo.generate.conversation import Episode, play
from anypo.parts import Part
from anypo.tasks.base import Problem, Task


@dataclass
class World:
    """What a generator may use: the task, the policy (encoding and version), and the engine's sampler."""

    task: Task
    policy: Any
    sampler: Sampler
    acting: Callable[[Mapping[str, Any]], AbstractContextManager[None]] = lambda plan: nullcontext()
    """The policy with the parameters that act for asks with this plan inside (`anypo.update.base.Update.acting`)."""

    def problem(self, ask: Ask) -> Problem:
        """What an ask asks for: its own problem, or the task's training problem of its index."""
        return self.task.train(ask.index) if ask.problem is None else ask.problem


OWN = 0
"""The role of a prompt's independent rollouts in their keys; continuations, targets and the like use other numbers."""


def rollout_key(context: Context, problem: Problem, visit: int, role: int, sample: int, *more: int) -> tuple[int, ...]:
    """Key of one rollout's random numbers: who is asked for, not when, where in the batch or beside whom."""
    return (context.seed, problem.prompt, visit, role, sample, *more)


def episode(ask: Ask, problem: Problem, context: Context, role: int, sample: int) -> Episode:
    """A conversation that an ask wants, not begun yet."""
    key = rollout_key(context, problem, ask.visit, role, sample)
    return Episode(problem, sample, key, start=ask.start, shown=ask.shown)


def answered(ask: Ask, problem: Problem, trajectories: Sequence[Trajectory], context: Context) -> Group:
    """The group of rollouts that answer an ask."""
    return Group(problem.prompt, tuple(trajectories), problem, context.step, ask.index, ask.visit)


class Generate(Part, slot="generate"):
    """Proposes trajectories. The sampling fields are those of `anypo.engine.base.Sampling`.

    plans: what of an ask it honours beyond a problem and a number: entries of `Ask.plan` by name, and ``shown`` and ``start``.
    """

    plans: ClassVar[frozenset[str]] = frozenset()

    max_new: int = Field(64, ge=1, description="most new tokens per turn")
    temperature: float = Field(1.0, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    stop: tuple[str, ...] = ()
    turns: int = Field(1, ge=1, description="most turns of a conversation")

    def sampling(self, context: Context) -> Sampling:
        """The sampling of this step (another room may scale the temperature through the hook ``temperature``)."""
        heat = self.temperature * context.hooks.get("temperature", 1.0)
        return Sampling(self.max_new, heat, self.top_p, self.top_k, self.min_p, self.stop)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        """One or more groups per ask, scored by the task's environment."""
        raise NotImplementedError

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """How the method acts when it is scored: every episode played to its end, in order (0 is greedy).

        Here a plain conversation with this generator's turns, stop strings and length, since trees, hints and forced modes
        belong to training; a method that gains at inference says here how.
        """
        sampling = Sampling(max_new=self.max_new, temperature=temperature, stop=self.stop)
        return play(episodes, world.task, world.policy, world.sampler, sampling, self.turns)


class Independent(Generate, name="independent"):
    """`samples` independent rollouts of every prompt form its group, from the state and with the context that its ask names."""

    plans = frozenset({"shown", "start"})

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        episodes = [
            episode(ask, problem, context, OWN, sample)
            for ask, problem in zip(asks, problems)
            for sample in range(ask.samples)
        ]
        trajectories = iter(play(episodes, world.task, world.policy, world.sampler, self.sampling(context), self.turns))
        return [
            answered(ask, problem, [next(trajectories) for _ in range(ask.samples)], context)
            for ask, problem in zip(asks, problems)
        ]
