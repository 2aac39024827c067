"""What a part may touch besides the batch: its own memory, the metrics, and the hooks it was given."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from anypo.outlook import moment
from anypo.parts import Part

T = TypeVar("T")

SHELF = "shelf"
"""Where the shelf lies in a checkpoint's memory."""


class Shelf:
    """Named stores that several parts share and every checkpoint holds: what is known about prompts, libraries, demonstrations.

    A store is a plain container, or an object with `state_dict` / `load_state_dict`. A part that owns one puts it there
    (`Part.stores`); one that no part owns is made by whoever asks for it first (`get`). What is restored before anyone asked
    waits until then.
    """

    def __init__(self) -> None:
        self._stores: dict[str, Any] = {}
        self._waiting: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The store `name`, made by `make` the first time."""
        if name not in self._stores:
            self._stores[name] = make()
            if name in self._waiting:
                _put_back(self._stores, name, self._waiting.pop(name))
        return self._stores[name]  # type: ignore[no-any-return]

    def find(self, name: str) -> Any:
        """The store `name`, or None where nobody has made one."""
        return self._stores.get(name)

    def texts(self) -> dict[str, str]:
        """The stores that can be read (they have a method ``text``), as they are."""
        return {name: store.text() for name, store in self._stores.items() if hasattr(store, "text")}

    def state_dict(self) -> dict[str, Any]:
        """A checkpointable copy of every store."""
        return copy.deepcopy(self._waiting) | {name: _saved(store) for name, store in self._stores.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, state in saved.items():
            if name in self._stores:
                _put_back(self._stores, name, state)
            else:
                self._waiting[name] = copy.deepcopy(state)


class Memory:
    """The mutable state of every part that has one, keyed by the part's path in the algorithm, and the `shelf` of what they share.

    Values may be numbers, strings, tensors, arrays, plain containers, or objects with `state_dict` / `load_state_dict`.
    """

    def __init__(self, root: Part) -> None:
        self._path: dict[int, str] = {}
        self._root = root  # keeps the ids alive
        self.states: dict[str, dict[str, Any]] = {}
        self.shelf = Shelf()
        for path, part in root.walk():
            if id(part) in self._path:
                raise ValueError(
                    f"parts at '{self._path[id(part)]}' and '{path}' are one object; build each separately"
                )
            self._path[id(part)] = path
            self.states[path] = part.start()
            for name, store in part.stores().items():
                self.shelf.get(name, lambda store=store: store)  # type: ignore[misc]

    def path(self, part: Part) -> str:
        """Where `part` sits in the algorithm."""
        return self._path[id(part)]

    def __getitem__(self, part: Part) -> dict[str, Any]:
        return self.states[self._path[id(part)]]

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """A checkpointable copy of every non-empty state."""
        states = {
            path: {key: _saved(value) for key, value in state.items()} for path, state in self.states.items() if state
        }
        shelf = self.shelf.state_dict()
        return states | {SHELF: shelf} if shelf else states

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for path, state in saved.items():
            if path == SHELF:
                self.shelf.load_state_dict(state)
                continue
            for key, value in state.items():
                _put_back(self.states[path], key, value)


def _saved(value: Any) -> Any:
    """What a checkpoint keeps of a value."""
    return {"__state__": value.state_dict()} if hasattr(value, "state_dict") else copy.deepcopy(value)


def _put_back(box: dict[str, Any], key: str, saved: Any) -> None:
    """Make the value at `key` the one that `_saved` described."""
    if isinstance(saved, dict) and "__state__" in saved:
        box[key].load_state_dict(saved["__state__"])
    else:
        box[key] = copy.deepcopy(saved)


class Metrics:
    """Named scalars of one step; several logs of one name are averaged by weight."""

    def __init__(self) -> None:
        self._sum: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def log(self, name: str, value: float | torch.Tensor, weight: float = 1.0) -> None:
        number = float(value.detach()) if isinstance(value, torch.Tensor) else float(value)
        self._sum[name] = self._sum.get(name, 0.0) + number * weight
        self._weight[name] = self._weight.get(name, 0.0) + weight

    def put(self, name: str, value: float) -> None:
        """Record a metric, replacing what was logged under that name."""
        self._sum[name], self._weight[name] = value, 1.0

    def add(self, name: str, value: float) -> None:
        """Add to a metric that is a total, not a mean."""
        self._sum[name] = self._sum.get(name, 0.0) + value
        self._weight[name] = 1.0

    def __contains__(self, name: str) -> bool:
        return name in self._sum

    def __getitem__(self, name: str) -> float:
        return self._sum[name] / self._weight[name] if self._weight[name] else math.nan

    def get(self, name: str, default: float) -> float:
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._sum)

    def values(self) -> dict[str, float]:
        return {name: self[name] for name in self._sum}


@dataclass
class Context:
    """Handed to every part call.

    step: optimisation step, from 0. total: planned steps. seed: the run seed (derive randomness from seed, step and ids only;
    that of rollouts from `anypo.generate.base.rollout_key`).
    epoch / minibatch: place inside the update. hooks: requests to other rooms, e.g. ``temperature`` (factor on the next
    rollouts' sampling temperature) and ``learning_rate`` (factor on this optimiser step); cleared by whoever serves them.
    nets: the learners by path with parameters fixed and inputs open, while prompts are chosen and losses are taken
    (`anypo.fits.Nets`).
    world: the run's world (`anypo.generate.base.World`) for control, generate, filter and replay; None for credit and objective,
    which are pure functions of columns.
    head: the policy's last layer and its optimiser's state (`anypo.update.rules.head.Head`) while an optimiser step is prepared.
    """

    step: int
    total: int
    seed: int
    memory: Memory
    metrics: Metrics = field(default_factory=Metrics)
    epoch: int = 0
    minibatch: int = 0
    hooks: dict[str, float] = field(default_factory=dict)
    head: Any = None
    nets: Any = None
    world: Any = None

    def moment(self, when: float) -> int:
        """The step that `when` means in this run, see `moment`."""
        return moment(when, self.total)

    def log(self, name: str, value: float | torch.Tensor, weight: float = 1.0) -> None:
        """Record a metric of this step (averaged when logged more than once)."""
        self.metrics.log(name, value, weight)

    def add(self, name: str, value: float) -> None:
        """Add to a metric of this step that is a total."""
        self.metrics.add(name, value)

    def generator(self, *salt: int) -> torch.Generator:
        """A torch generator that depends only on the run seed, the step and `salt`."""
        mixed = int(np.random.SeedSequence([self.seed, self.step, *salt]).generate_state(1, np.uint64)[0]) >> 1
        return torch.Generator().manual_seed(mixed)
