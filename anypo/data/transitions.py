"""Transitions as arrays: what happened in an environment, one row a step, whichever episode it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from anypo.data.batch import Batch
from anypo.data.records import Group, Steps

FIELDS = ("observation", "action", "observation_next", "reward", "terminated")


@dataclass(frozen=True)
class Arrays:
    """n transitions: observation and observation_next [n, ...], action [n, ...], reward [n] and terminated [n] (0 or 1; a time limit
    does not terminate), float32 (discrete actions int64)."""

    observation: np.ndarray
    action: np.ndarray
    observation_next: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)

    @staticmethod
    def of(groups: list[Group]) -> Arrays | None:
        """The transitions of rollouts in environments; None where there are none."""
        found = [t for group in groups for t in group.trajectories if isinstance(t.content, Steps) and len(t)]
        if not found:
            return None
        contents: list[Any] = [t.content for t in found]
        rewards = [t.step_rewards if t.step_rewards is not None else np.zeros(len(t)) for t in found]
        ends = [np.append(np.zeros(len(t) - 1), float(c.terminated)) for t, c in zip(found, contents)]
        after = [np.concatenate([c.observations[1:], c.last[None]]) for c in contents]
        return Arrays(
            _float(np.concatenate([c.observations for c in contents])),
            _float(np.concatenate([c.actions for c in contents])),
            _float(np.concatenate(after)),
            _float(np.concatenate(rewards)),
            _float(np.concatenate(ends)),
        )

    def take(self, places: np.ndarray) -> Arrays:
        """The transitions at these places, copied."""
        return Arrays(*(getattr(self, name)[places] for name in FIELDS))

    def drawn(self, count: int, rng: np.random.Generator) -> Arrays:
        """`count` of them, uniformly and with replacement."""
        return self.take(rng.integers(0, len(self), count))

    def replace(self, **fields: np.ndarray) -> Arrays:
        """These with some arrays replaced."""
        return replace(self, **fields)

    def joined(self, other: Arrays) -> Arrays:
        """These and then the others."""
        return Arrays(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in FIELDS))

    def batch(self) -> Batch:
        """One row and one sequence a transition, all of one group; the columns of `anypo.data.batch` with ``observation``,
        ``action``, ``observation_next`` and ``terminated`` beside them. There are no trajectories behind it."""
        n = len(self)
        zeros, whole = torch.zeros(n), torch.zeros(n, dtype=torch.int64)
        ids, ones = torch.arange(n), torch.ones(n, dtype=torch.int64)
        reward = torch.from_numpy(self.reward)
        rows = {
            "sequence": ids, "position": whole, "turn": whole, "version": whole - 1, "logp_behaviour": zeros,
            "log_mass": zeros, "step_reward": reward, "weight": torch.ones(n),
            "observation": torch.from_numpy(self.observation), "action": torch.from_numpy(self.action),
            "observation_next": torch.from_numpy(self.observation_next), "terminated": torch.from_numpy(self.terminated),
        }  # fmt: skip
        sequences = {
            "group": whole, "prompt": whole, "length": ones, "sample": ids, "parent": whole - 1, "fork": whole - 1,
            "reward": reward, "temperature": torch.ones(n), "truncated": torch.zeros(n, dtype=torch.bool),
            "demo": torch.zeros(n, dtype=torch.bool),
        }  # fmt: skip
        return Batch(rows, sequences, 1)


class Ring:
    """The last `capacity` transitions, the oldest overwritten first."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.size, self.place = capacity, 0, 0
        self.arrays: Arrays | None = None

    def add(self, fresh: Arrays) -> None:
        """Keep these transitions (the last `capacity` of them)."""
        fresh = fresh.take(np.arange(max(0, len(fresh) - self.capacity), len(fresh)))
        if self.arrays is None:
            shapes = {name: getattr(fresh, name) for name in FIELDS}
            self.arrays = Arrays(*(np.empty((self.capacity, *a.shape[1:]), a.dtype) for a in shapes.values()))
        where = (self.place + np.arange(len(fresh))) % self.capacity
        for name in FIELDS:
            getattr(self.arrays, name)[where] = getattr(fresh, name)
        self.place = int((self.place + len(fresh)) % self.capacity)
        self.size = min(self.capacity, self.size + len(fresh))

    def draw(self, count: int, rng: np.random.Generator) -> Arrays:
        """`count` transitions, uniformly and with replacement. There must be some."""
        if self.arrays is None:
            raise ValueError("the ring is empty")
        return self.arrays.take(rng.integers(0, self.size, count))

    def state_dict(self) -> dict[str, Any]:
        kept = (
            {name: getattr(self.arrays, name)[: self.size].copy() for name in FIELDS} if self.arrays is not None else {}
        )
        return {"place": self.place, "arrays": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.size, self.place, self.arrays = 0, 0, None
        if state["arrays"]:
            self.add(Arrays(**state["arrays"]))
        self.place = int(state["place"])


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
