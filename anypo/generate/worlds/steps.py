"""Rollouts in Gymnasium environments: stretches of experience that go on from update to update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FINISHED, TRUNCATED, Group, Steps, Trajectory
from anypo.errors import UserError
from anypo.generate.act import Act, Own
from anypo.generate.base import Generate, World
from anypo.generate.worlds.seats import Seat
from anypo.tasks.base import Task


class EnvironmentSteps(Generate, name="environment_steps"):
    """`steps` steps in each of `environments` copies of a `GymTask`'s environment, however many episodes that is.

    Episodes go on from one update to the next. Every uninterrupted stretch of an episode is one trajectory and one group; a
    trajectory that the environment did not terminate (time limit, or the end of the rollout) is truncated: what follows it is to
    be bootstrapped from the observation after it. Continuous actions are clipped to the action space on their way into the
    environment only. Observation statistics, where the policy keeps them, are updated before sampling begins. Episodes that end
    log ``episode/return`` and ``episode/length``. The environments are the world's (`World.seats`), which stores where they stand.
    """

    environments: int = Field(8, ge=1)
    steps: int = Field(256, ge=1, description="steps per environment and update")
    act: Act = Own()

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        if self.suits(world.task) or not hasattr(world.policy, "act"):
            raise UserError("the generator 'environment_steps' needs a Gymnasium task and a control policy")
        seats = self._seats(world, context)
        generator = context.generator(29)
        groups: list[Group] = []
        memory = context.memory[self]
        for _ in range(self.steps):
            seen = np.stack([seat.observation for seat in seats])
            taken = self.act.act(seen, seats[0].environment.action_space, world, memory["steps"], generator)
            memory["steps"] += 1
            for number, seat in enumerate(seats):
                done = seat.step(taken.action[number], taken.sent[number], float(taken.logp[number]))
                if done:
                    context.log("episode/return", seat.earned)
                    context.log("episode/length", seat.length)
                    groups.append(self._close(seat, world, number, context, done, {"episode_return": seat.earned}))
                    seat.begin(context.seed)
        groups += [self._close(seat, world, n, context, TRUNCATED, {}) for n, seat in enumerate(seats) if seat.rewards]
        context.memory[self]["episodes"] = [seat.episode for seat in seats]
        if hasattr(world.policy, "observe"):
            context.memory[self]["seen"] = np.concatenate([g.trajectories[0].content.observations for g in groups])  # type: ignore[union-attr]
        return groups

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
                seat.begin(context.seed)
        return world.seats

    def _close(
        self, seat: Seat, world: World, number: int, context: Context, finish: str, extra: dict[str, float]
    ) -> Group:
        """The stretch so far as a group; the seat starts a new one."""
        problem = world.task.train(0)
        rewards = np.array(seat.rewards)
        trajectory = Trajectory(
            prompt=problem.prompt,
            content=Steps(
                np.stack(seat.observations), np.stack(seat.actions), np.asarray(seat.observation), finish == FINISHED
            ),
            logp=np.array(seat.logp),
            version=np.full(len(rewards), world.policy.version),
            rewards={"return": float(rewards.sum())},
            reward=float(rewards.sum()),
            step_rewards=rewards,
            finish=finish,
            sample=number,
            extra=extra,
        )
        seat.observations, seat.actions, seat.logp, seat.rewards = [], [], [], []
        return Group(problem.prompt, (trajectory,), problem, context.step)
