"""Rollouts in Gymnasium environments: stretches of experience that go on from update to update."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FAILED, TRUNCATED, Group, Trajectory
from anypo.errors import UserError
from anypo.generate.act import Act, Own
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode
from anypo.generate.worlds.seats import Seat
from anypo.tasks.base import Task
from anypo.tasks.worker import reason

LONGEST = 100_000
"""Steps after which an episode that is evaluated counts as truncated, should its environment have no time limit."""


class EnvironmentSteps(Generate, name="environment_steps"):
    """`steps` steps in each of `environments` copies of a `GymTask`'s environment, however many episodes that is.

    Episodes go on from one update to the next. Every uninterrupted stretch of an episode is one trajectory and one group; a
    trajectory that the environment did not terminate (time limit, or the end of the rollout) is truncated: what follows it is to
    be bootstrapped from the observation after it. Continuous actions are clipped to the action space on their way into the
    environment only. Observation statistics, where the policy keeps them, are updated before sampling begins. Episodes that end
    log ``episode/return`` and ``episode/length``. The environments are the world's (`World.seats`), which stores where they stand.
    """

    conversational = False

    environments: int = Field(8, ge=1)
    steps: int = Field(256, ge=1, description="steps per environment and update")
    act: Act = Own()

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        if self.suits(world.task) or not hasattr(world.policy, "act"):
            raise UserError("the generator 'environment_steps' needs a Gymnasium task and a control policy")
        seats = self._seats(world, context)
        generator = context.generator(29)
        groups: list[Group] = []
        broken: list[str] = []
        memory = context.memory[self]
        for _ in range(self.steps):
            seen = np.stack([seat.observation for seat in seats])
            taken = self.act.act(seen, seats[0].environment.action_space, world, memory["steps"], generator)
            memory["steps"] += 1
            for number, seat in enumerate(seats):
                done = seat.step(taken.of(number))
                if done == FAILED:
                    broken.append(seat.failed)
                    if seat.rewards:
                        groups.append(self._close(seat, world, number, context, done, {"failed": seat.failed}))
                    seat.environment = world.task.environment(world.task.train(0))
                    seat.begin(context.seed, world.task)
                elif done:
                    context.log("episode/return", seat.earned)
                    context.log("episode/length", seat.length)
                    groups.append(self._close(seat, world, number, context, done, {"episode_return": seat.earned}))
                    seat.begin(context.seed, world.task)
        groups += [self._close(seat, world, n, context, TRUNCATED, {}) for n, seat in enumerate(seats) if seat.rewards]
        if broken:
            context.add("episode/failed", float(len(broken)))
            if len(broken) == len(seats) * self.steps:
                raise UserError(f"every step in the environments of task '{world.task.name}' failed: {broken[-1]}")
        context.memory[self]["episodes"] = [seat.episode for seat in seats]
        if hasattr(world.policy, "observe"):
            context.memory[self]["seen"] = np.concatenate([g.trajectories[0].content.observations for g in groups])  # type: ignore[union-attr]
        return groups

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """Whole episodes, each in a new environment reset with its own seed: the act's best actions (temperature 0), or actions as
        while training, after any warm-up (1)."""
        return scored_episodes(episodes, world, self.act, temperature)

    def suits(self, task: Task) -> str | None:
        return None if hasattr(task, "make") else "it steps Gymnasium environments; choose a generator of texts"

    def start(self) -> dict[str, Any]:
        return {"seen": None, "episodes": [], "steps": 0}

    def _seats(self, world: World, context: Context) -> list[Seat]:
        seen = context.memory[self]["seen"]
        if seen is not None:
            world.policy.observe(seen)
        if len(world.seats) != self.environments:
            known, problem = context.memory[self]["episodes"], world.task.train(0)
            begun = [known[n] if n < len(known) else -1 for n in range(self.environments)]
            world.seats = [Seat(world.task.environment(problem), number, past) for number, past in enumerate(begun)]
            for seat in world.seats:
                seat.begin(context.seed, world.task)
        return world.seats

    def _close(
        self, seat: Seat, world: World, number: int, context: Context, finish: str, extra: dict[str, Any]
    ) -> Group:
        """The stretch so far as a group; the seat starts a new one."""
        problem = world.task.train(0)
        stretch = seat.stretch(finish)
        earned = float(np.sum(seat.rewards))
        trajectory = Trajectory(
            prompt=problem.prompt,
            **stretch,
            version=np.full(len(stretch["logp"]), world.policy.version),
            rewards={"return": earned},
            reward=earned,
            finish=finish,
            sample=number,
            extra=extra,
        )
        seat.observations, seat.taken, seat.rewards = [], [], []
        return Group(problem.prompt, (trajectory,), problem, context.step)


def scored_episodes(episodes: Sequence[Episode], world: World, act: Act, temperature: float) -> list[Trajectory]:
    """Whole episodes for a score: the act's best actions (temperature 0), or those of training (1)."""
    if temperature not in (0.0, 1.0):
        raise UserError(f"a control policy is scored at temperature 0 or 1, not {temperature:g}")
    return whole_episodes(episodes, world, act, sampled=temperature == 1.0)


def whole_episodes(episodes: Sequence[Episode], world: World, act: Act, sampled: bool) -> list[Trajectory]:
    """Play every episode to its end, all in step."""
    seats = []
    for number, episode in enumerate(episodes):
        seats.append(_seat(world.task, episode, number))
    generator = torch.Generator().manual_seed(_number(episodes[0].seed) if episodes else 0)
    finish = [FAILED if seat.failed else "" for seat in seats]
    for _ in range(LONGEST):
        live = [number for number, ended in enumerate(finish) if not ended]
        if not live:
            break
        seen = np.stack([seats[number].observation for number in live])
        space = seats[0].environment.action_space
        taken = act.act(seen, space, world, sys.maxsize, generator) if sampled else act.best(seen, space, world)
        for place, number in enumerate(live):
            finish[number] = seats[number].step(taken.of(place))
    stretches = [seat.stretch(end) for seat, end in zip(seats, finish)]
    return [
        Trajectory(
            prompt=episode.problem.prompt,
            **stretch,
            version=np.full(len(stretch["logp"]), world.policy.version),
            rewards={"return": seat.earned},
            reward=seat.earned,
            finish=end or TRUNCATED,
            sample=episode.sample,
            extra={"failed": seat.failed} if seat.failed else {},
        )
        for episode, seat, stretch, end in zip(episodes, seats, stretches, finish)
    ]


def _seat(task: Task, episode: Episode, number: int) -> Seat:
    """A new environment at the beginning of the episode; one that raises has failed."""
    seat = Seat(task.environment(episode.problem), number)
    try:
        seat.environment.reset(seed=_number(episode.seed))
    except UserError:
        raise
    except Exception as error:
        seat.failed = f"environment: reset: {reason(error)}"
    return seat


def _number(seed: tuple[int, ...]) -> int:
    """A 31-bit seed from a tuple of integers."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint32)[0]) >> 1
