"""Rollouts in Gymnasium environments: stretches of experience that go on from update to update."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import FINISHED, TRUNCATED, Group, Steps, Trajectory
from anypo.errors import UserError
from anypo.generate.act import Act, Own
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode

if TYPE_CHECKING:
    import gymnasium


@dataclass
class _Seat:
    """One environment in use: where its episode stands, and what has happened since the stretch began."""

    environment: gymnasium.Env[Any, Any]
    number: int
    episode: int
    observation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    earned: float = 0.0
    length: int = 0
    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def begin(self, seed: int) -> None:
        """The next episode: its seed depends on the run's, the seat and how many episodes this seat has begun."""
        self.episode += 1
        own = np.random.SeedSequence([seed, self.number, self.episode, 31]).generate_state(1, np.uint32)[0]
        self.observation, _ = self.environment.reset(seed=int(own) >> 1)
        self.earned, self.length = 0.0, 0


_SEATS: weakref.WeakKeyDictionary[Any, list[_Seat]] = weakref.WeakKeyDictionary()
"""The environments in use, by task: they belong to the world, not to the (stateless) part."""


LONGEST = 100_000
"""Steps after which an episode that is evaluated counts as truncated, should its environment have no time limit."""


class EnvironmentSteps(Generate, name="environment_steps"):
    """`steps` steps in each of `environments` copies of a `GymTask`'s environment, however many episodes that is.

    Episodes go on from one update to the next. Every uninterrupted stretch of an episode is one trajectory and one group; a
    trajectory that the environment did not terminate (time limit, or the end of the rollout) is truncated: what follows it is to
    be bootstrapped from the observation after it. Continuous actions are clipped to the action space on their way into the
    environment only. Observation statistics, where the policy keeps them, are updated before sampling begins. Episodes that end
    log ``episode/return`` and ``episode/length``. A resumed run begins new episodes.
    """

    environments: int = Field(8, ge=1)
    steps: int = Field(256, ge=1, description="steps per environment and update")
    act: Act = Own()

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        if not hasattr(world.task, "make") or not hasattr(world.policy, "act"):
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
                done = _step(seat, taken.action[number], taken.sent[number], float(taken.logp[number]))
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

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        """Whole episodes, each in a new environment reset with its own seed: the act's best actions (temperature 0), or actions as
        while training, after any warm-up (1)."""
        if temperature not in (0.0, 1.0):
            raise UserError(f"a control policy is scored at temperature 0 or 1, not {temperature:g}")
        return _whole_episodes(episodes, world, self.act, sampled=temperature == 1.0)

    def start(self) -> dict[str, Any]:
        return {"seen": None, "episodes": [], "steps": 0}

    def _seats(self, world: World, context: Context) -> list[_Seat]:
        seen = context.memory[self]["seen"]
        if seen is not None:
            world.policy.observe(seen)
        seats = _SEATS.get(world.task)
        if seats is None or len(seats) != self.environments:
            known = context.memory[self]["episodes"]
            begun = [known[n] if n < len(known) else -1 for n in range(self.environments)]
            seats = [_Seat(world.task.make(), number, episode) for number, episode in enumerate(begun)]  # type: ignore[attr-defined]
            for seat in seats:
                seat.begin(context.seed)
            _SEATS[world.task] = seats
        return seats

    def _close(
        self, seat: _Seat, world: World, number: int, context: Context, finish: str, extra: dict[str, float]
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


def _step(seat: _Seat, action: np.ndarray, sent: np.ndarray, logp: float) -> str:
    """Take one action; the finish reason when the episode ended, else ''."""
    space: Any = seat.environment.action_space
    given = sent.reshape(space.shape) if hasattr(space, "low") else int(sent)
    following, reward, terminated, truncated, _ = seat.environment.step(given)
    seat.observations.append(np.asarray(seat.observation))
    seat.actions.append(action)
    seat.logp.append(logp)
    seat.rewards.append(float(reward))
    seat.observation, seat.earned, seat.length = following, seat.earned + float(reward), seat.length + 1
    return FINISHED if terminated else TRUNCATED if truncated else ""


def _whole_episodes(episodes: Sequence[Episode], world: World, act: Act, sampled: bool) -> list[Trajectory]:
    """Play every episode to its end, all in step."""
    seats = []
    for number, episode in enumerate(episodes):
        environment = world.task.make()  # type: ignore[attr-defined]
        seats.append(_Seat(environment, number, 0, environment.reset(seed=_number(episode.seed))[0]))
    generator = torch.Generator().manual_seed(_number(episodes[0].seed) if episodes else 0)
    finish = [""] * len(seats)
    for _ in range(LONGEST):
        live = [number for number, ended in enumerate(finish) if not ended]
        if not live:
            break
        seen = np.stack([seats[number].observation for number in live])
        space = seats[0].environment.action_space
        taken = act.act(seen, space, world, sys.maxsize, generator) if sampled else act.best(seen, space, world)
        for place, number in enumerate(live):
            finish[number] = _step(seats[number], taken.action[place], taken.sent[place], float(taken.logp[place]))
    for seat in seats:
        seat.environment.close()
    return [
        Trajectory(
            prompt=episode.problem.prompt,
            content=Steps(
                np.stack(seat.observations), np.stack(seat.actions), np.asarray(seat.observation), end == FINISHED
            ),
            logp=np.array(seat.logp),
            version=np.full(len(seat.rewards), world.policy.version),
            rewards={"return": seat.earned},
            reward=seat.earned,
            step_rewards=np.array(seat.rewards),
            finish=end or TRUNCATED,
            sample=episode.sample,
        )
        for episode, seat, end in zip(episodes, seats, finish)
    ]


def _number(seed: tuple[int, ...]) -> int:
    """A 31-bit seed from a tuple of integers."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint32)[0]) >> 1
