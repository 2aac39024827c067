"""Minari data sets made here: a few short episodes, written where Minari looks for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer


def episode(environment: gymnasium.Env[Any, Any], seed: int, longest: int = 1000, **changes: Any) -> EpisodeBuffer:
    """One episode of random actions, cut after `longest` steps; `changes` replace what was recorded."""
    rng = np.random.default_rng(seed)
    seen, taken, rewards, ends, cuts = [environment.reset(seed=seed)[0]], [], [], [], []
    while not (ends and (ends[-1] or cuts[-1])) and len(taken) < longest:
        space = environment.action_space
        action: Any = rng.integers(space.n) if hasattr(space, "n") else rng.uniform(space.low, space.high)
        observation, reward, terminated, truncated, _ = environment.step(
            action if hasattr(space, "n") else action.astype(space.dtype)
        )
        seen.append(observation)
        taken.append(action)
        rewards.append(float(reward))
        ends.append(bool(terminated))
        cuts.append(bool(truncated))
    recorded = {"observations": seen, "actions": taken, "rewards": rewards, "terminations": ends, "truncations": cuts}
    return EpisodeBuffer(**{key: np.asarray(value) for key, value in {**recorded, **changes}.items()})  # type: ignore[arg-type]


def record(
    name: str,
    environment: str = "Pendulum-v1",
    episodes: int = 2,
    longest: int = 30,
    change: Callable[[EpisodeBuffer], EpisodeBuffer] = lambda buffer: buffer,
    **more: Any,
) -> list[EpisodeBuffer]:
    """Write the data set `name` below MINARI_DATASETS_PATH, and return what is in it."""
    made = gymnasium.make(environment)
    buffers = [change(episode(made, seed, longest)) for seed in range(episodes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(name, buffers, **{"env": made, **more})
    return buffers


def metadata(root: Path, name: str) -> Path:
    """The file in which a data set describes itself."""
    return root / name / "data" / "metadata.json"
