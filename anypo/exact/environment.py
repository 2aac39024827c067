"""A finite Markov decision process as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from anypo.exact.mdp import TabularMDP


class MDPEnvironment(gymnasium.Env[np.ndarray, int]):
    """A `TabularMDP` to act in: observations are one-hot states, episodes never terminate (the time limit truncates them).

    Registered, once this module is imported, as ``anypo/TabularMDP-v0``: ``gymnasium.make("anypo/TabularMDP-v0", mdp=mdp)``.
    """

    def __init__(self, mdp: TabularMDP) -> None:
        self.mdp = mdp
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (mdp.states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(mdp.actions)  # type: ignore[assignment]
        self._flow = mdp.transitions.numpy().cumsum(-1)
        self._rewards = mdp.rewards.numpy()
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = _pick(self.mdp.start.numpy().cumsum(), self.np_random.random())
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self._rewards[self._state, action])
        self._state = _pick(self._flow[self._state, action], self.np_random.random())
        return self._see(), reward, False, False, {}

    def _see(self) -> np.ndarray:
        return np.eye(self.mdp.states, dtype=np.float32)[self._state]


def _pick(cumulative: np.ndarray, draw: float) -> int:
    return int(min(np.searchsorted(cumulative, draw * cumulative[-1], side="right"), len(cumulative) - 1))


if "anypo/TabularMDP-v0" not in gymnasium.registry:
    gymnasium.register(
        "anypo/TabularMDP-v0", entry_point="anypo.exact.environment:MDPEnvironment", max_episode_steps=50
    )
