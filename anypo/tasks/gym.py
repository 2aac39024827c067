"""Gymnasium environments as tasks (`anypo.run.acting` makes the world in which a control policy is trained on one)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from anypo.data.content import Message
from anypo.data.records import prompt_id
from anypo.errors import UserError
from anypo.tasks import gymstate
from anypo.tasks.base import Action, Problem, Reply


class GymTask:
    """One Gymnasium environment, e.g. ``CartPole-v1``. It has a single problem, whose episodes differ by their seed.

    `options` go to `gymnasium.make`. Raises `UserError` for an environment that is not installed, or whose observations are not
    one vector or whose actions are neither discrete nor a vector.
    """

    outcome = "return"
    scorer = "returns"

    def __init__(self, environment_id: str, options: Mapping[str, Any] | None = None) -> None:
        self.name = environment_id
        self.options = dict(options or {})
        self.weights: Mapping[str, float] = {"return": 1.0}
        probe = self.make()
        self.observation, self.actions = probe.observation_space, probe.action_space
        probe.close()
        if not isinstance(self.observation, gymnasium.spaces.Box):
            raise UserError(
                f"{environment_id} observes {self.observation}; only environments with vectors (Box) are supported"
            )
        if not isinstance(self.actions, (gymnasium.spaces.Box, gymnasium.spaces.Discrete)):
            raise UserError(f"{environment_id} acts with {self.actions}; only Box and Discrete actions are supported")

    def make(self) -> gymnasium.Env[Any, Any]:
        """A new environment."""
        return opened(self.name, self.name, self.options)

    @property
    def discrete(self) -> bool:
        return isinstance(self.actions, gymnasium.spaces.Discrete)

    def __len__(self) -> int:
        return 1

    @property
    def n_heldout(self) -> int:
        return 1

    def train(self, index: int) -> Problem:
        return Problem(prompt_id(self.name), ())

    def heldout(self, index: int) -> Problem:
        return self.train(index)

    def environment(self, problem: Problem) -> Any:
        """An episode in a new environment, in which the actions are arrays (`GymEpisode`)."""
        return GymEpisode(self.make(), self.name)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "gymnasium",
            "version": gymnasium.__version__,
            "environment": self.name,
            "options": self.options,
        }


def opened(
    source: str | gymnasium.envs.registration.EnvSpec, name: str, options: Mapping[str, Any]
) -> gymnasium.Env[Any, Any]:
    """The environment that an id or a specification describes. `UserError` where it cannot be made here."""
    try:
        return gymnasium.make(source, **options)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"cannot make the environment '{name}': {' '.join(str(error).split())}") from None


class GymEpisode:
    """A Gymnasium environment with the manners of `anypo.tasks.base.Environment`: no messages, actions that are arrays, replies
    with an observation. It may be reset again and again; each episode is drawn from the environment's own random numbers.

    Actions are those of the action space (a generator's `anypo.generate.act.Act` sees to it). States are plain data and exact
    (`anypo.tasks.gymstate`); where an environment keeps something that cannot be seen, its episode is replayed from the random
    numbers it began with.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], name: str) -> None:
        self.environment, self.name = environment, name
        self.observation: Any = None
        self._random: dict[str, Any] = {}
        self._actions: list[np.ndarray] = []

    @property
    def action_space(self) -> Any:
        return self.environment.action_space

    def reset(self, start: Mapping[str, Any] | None = None, seed: int | None = None) -> tuple[Message, ...]:
        """Begin an episode, with the environment's random numbers going on or seeded anew, or go on from a `snapshot`."""
        if start is not None:
            self._restore(start)
            return ()
        if seed is not None:  # seeding by itself draws nothing, so the state before the first draw is known
            self.environment.unwrapped.np_random = gymnasium.utils.seeding.np_random(seed)[0]
        self._random, self._actions = gymstate.random_state(self.environment.unwrapped.np_random), []
        observation, _ = self.environment.reset(seed=seed)
        self.observation = self._seen(observation)
        return ()

    def _seen(self, observation: Any) -> Any:
        shape = self.environment.observation_space.shape
        if np.shape(observation) != shape:
            raise ValueError(f"the observation has the shape {np.shape(observation)}, not {shape}")
        if np.isnan(observation).any():
            raise ValueError("the observation has numbers that are none (NaN)")
        return observation

    def step(self, action: Action) -> Reply:
        """One step; the reward is the component ``return``, whose sum over an episode is its return."""
        assert action.array is not None, "an environment of arrays takes arrays"
        array = np.asarray(action.array)
        sent: Any = array.reshape(self.action_space.shape) if hasattr(self.action_space, "low") else int(array)
        self._actions.append(array)
        observation, reward, terminated, truncated, _ = self.environment.step(sent)
        if isinstance(reward, str) or not math.isfinite(reward):
            raise ValueError(f"the reward is {reward!r}")
        self.observation = self._seen(observation)
        return Reply(
            {"return": float(reward)},
            done=bool(terminated),
            truncated=bool(truncated and not terminated),
            observation=self.observation,
        )

    def snapshot(self) -> dict[str, Any]:
        """Where the episode stands, as plain data."""
        layers = gymstate.take(self.environment)
        replay = {"random": self._random, "actions": list(self._actions)}
        return {"observation": np.array(self.observation), **({"layers": layers} if layers is not None else replay)}

    def _restore(self, start: Mapping[str, Any]) -> None:
        if "layers" in start:
            self.environment.reset()  # whatever a first reset builds
            gymstate.put(self.environment, start["layers"])
            self.observation = np.array(start["observation"])
            self._random, self._actions = {}, []
            return
        self.environment.unwrapped.np_random = gymstate.generator(start["random"])
        self.reset()
        for array in start["actions"]:
            self.step(Action(array=array))
        if not np.array_equal(self.observation, start["observation"], equal_nan=True):
            raise UserError(
                f"the environment '{self.name}' cannot be put back to where it stood: with the same random numbers and actions it "
                "came to another observation; the run cannot be resumed exactly, so begin it anew"
            )
