"""The generate room's interface, and independent groups: n separate rollouts of every prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import Field

from anypo.context import Context, Shelf
from anypo.control.base import Ask
from anypo.control.mixtures.probes import Probed, Probes
from anypo.data.records import Group, Trajectory
from anypo.engine.base import Sampler, Sampling
from anypo.errors import UserError
from anypo.generate.conversation import Episode, converse
from anypo.generate.workspace import Accumulate, Workspace
from anypo.generate.worlds.seats import Seat
from anypo.outlook import Outlook
from anypo.parts import Part
from anypo.policies.views import View
from anypo.roles.base import Model
from anypo.tasks.base import Problem, Task
from anypo.tasks.live import posed


class Trial(Protocol):
    """What training would come to, found out on copies of the run that are thrown away. Nothing of the run changes."""

    def __call__(self, groups: Sequence[Group], steps: int, size: int = 32) -> float:
        """The score of a copy after `steps` steps on `groups` (0: as it stands), over `size` training problems (`anypo.run.trial`).
        `UserError` where there is no run, or none that can be copied."""
        ...

    def probes(self, wanted: Probes) -> Probed:
        """The losses of policies in between copies that were trained apart (`anypo.run.probes`). `UserError` as above, and where a
        loss cannot be read."""
        ...


class NoTrial:
    """Outside of a training run."""

    def __call__(self, groups: Sequence[Group], steps: int, size: int = 32) -> float:
        raise UserError("nothing can be tried outside of a training run")

    def probes(self, wanted: Probes) -> Probed:
        raise UserError("nothing can be tried outside of a training run")


@dataclass
class World:
    """What control, generate, filter and replay may use: the task, the policy (encoding and version), the engine's sampler, other
    models by role (`anypo.roles.cast`), the shelf of stores that parts share (the trainer's, `anypo.context.Shelf`), the
    environments in use (`seats`), whose episodes go on from step to step, and a `trial` of what training would come to."""

    task: Task
    policy: Any
    sampler: Sampler
    models: Mapping[str, Model] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    acting: Callable[[Mapping[str, Any]], AbstractContextManager[None]] = lambda plan: nullcontext()
    """The policy with the parameters that act for asks with this plan inside (`anypo.update.base.Update.acting`)."""
    seats: list[Seat] = field(default_factory=list)
    trial: Trial = field(default_factory=NoTrial)

    def problem(self, ask: Ask) -> Problem:
        """What an ask asks for: its own problem, or the task's training problem of its index."""
        return posed(self.task, self.task.train, ask.index) if ask.problem is None else ask.problem

    def state_dict(self) -> dict[str, Any]:
        """Where the environments in use stand, and what models keep (the copy of the initial policy), for a checkpoint."""
        kept = {role: model.state_dict() for role, model in self.models.items()}
        return {"seats": [seat.state_dict() for seat in self.seats], "models": {r: s for r, s in kept.items() if s}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the environments anew and put them where `state_dict` found them. Raises `UserError` for one that does not come to
        stand there."""
        self.seats = [Seat.restore(self.task, saved) for saved in state["seats"]]
        for role, kept in state["models"].items():
            self.models[role].load_state_dict(kept)


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
    by_itself: it draws tokens itself, without the engine, which counts its own; its rollouts are all that it drew.
    traced: each of its rollouts shows whether `independent` could have made it (`anypo.run.beside.rooms.plain`).
    """

    plans: ClassVar[frozenset[str]] = frozenset()
    by_itself: ClassVar[bool] = False
    traced: ClassVar[bool] = False
    conversational: ClassVar[bool] = True
    """Whether it plays the turns of conversations."""

    max_new: int = Field(64, ge=1, description="most new tokens per turn")
    temperature: float = Field(1.0, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    stop: tuple[str, ...] = ()
    turns: int = Field(1, ge=1, description="most turns of a conversation")
    workspace: Workspace = Accumulate()

    def suits(self, task: Task) -> str | None:
        """A sentence saying why this generator cannot work on `task`, or None (see `check_task`)."""
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        """Where turns are played and the task says how many an episode has: that these are too few, or more than there are."""
        most = getattr(outlook.task, "turns", None)
        if most is None or not self.conversational or (self.turns == 1) == (most == 1):
            return None
        if self.turns == 1:
            return f"beyond the first turn: an episode of this task has up to {most}; set generate.turns={most}"
        return f"beyond the first turn: an episode of this task is one answer; set generate.turns=1 (now {self.turns})"

    def sampling(self, context: Context) -> Sampling:
        """The sampling of this step (another room may scale the temperature through the hook ``temperature``)."""
        heat = self.temperature * context.hooks.get("temperature", 1.0)
        return Sampling(self.max_new, heat, self.top_p, self.top_k, self.min_p, self.stop)

    def wants(self, planned: int, missing: int, context: Context) -> int:
        """How many asks it can use in a step of `planned` groups, of which `missing` have not survived yet: others than `planned`
        where it has groups in work already, or begins more than it ends."""
        return planned

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        """One or more groups per ask, scored by the task's environment."""
        raise NotImplementedError

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """How the method acts when it is scored: every episode played to its end, in order (0 is greedy).

        Here a plain conversation with this generator's turns, stop strings and length, since trees, hints and forced modes
        belong to training; a method that gains at inference says here how.
        """
        sampling = Sampling(max_new=self.max_new, temperature=temperature, stop=self.stop)
        made = converse(episodes, world.task, world.policy, world.sampler, sampling, self.turns, self.workspace)
        return [trajectories[-1] for trajectories in made]


class Independent(Generate, name="independent"):
    """`samples` independent rollouts of every prompt form its group, from the state and with the context that its ask names."""

    plans = frozenset({"shown", "start"})

    def provided(self) -> frozenset[str]:
        return super().provided() | keys_of(self)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        episodes = [
            episode(ask, problem, context, OWN, sample)
            for ask, problem in zip(asks, problems)
            for sample in range(ask.samples)
        ]
        made = iter(self.converse(episodes, world, context))
        return [
            answered(ask, problem, [t for _ in range(ask.samples) for t in next(made)], context)
            for ask, problem in zip(asks, problems)
        ]

    def converse(self, episodes: Sequence[Episode], world: World, context: Context) -> list[tuple[Trajectory, ...]]:
        """The trajectories of every episode, in order: one each, unless the workspace makes contexts anew."""
        sampling = self.sampling(context)
        return converse(episodes, world.task, world.policy, world.sampler, sampling, self.turns, self.workspace)


def keys_of(generate: Generate) -> frozenset[str]:
    """Features of a generator that plays conversations: whatever keys the environment names, and those of the workspace."""
    several = frozenset({"key:*"}) if generate.turns > 1 else frozenset()
    return several if isinstance(generate.workspace, Accumulate) else several | {"key:episode"}


def check_task(part: Any, task: Task) -> None:
    """Raise `UserError` where a part that has `suits` (generate, replay, update, views) cannot work on a task (ask before anything
    heavy is loaded)."""
    reason = part.suits(task)
    if reason:
        raise UserError(f"{part.slot} ({part.part}) cannot work on task '{task.name}': {reason}")


def check_suits(algorithm: Any, task: Task) -> None:
    """`check_task` for every part of an algorithm that has a say: its rooms generate, replay and update, and its views."""
    views = [part for _, part in algorithm.walk() if isinstance(part, View)]
    for part in (algorithm.generate, algorithm.replay, algorithm.update, *views):
        check_task(part, task)
