"""The state of a Gymnasium environment as plain data, exact to the last bit, and back into another copy of it.

An environment is a stack of wrappers around the world itself. Of every layer the attributes that hold numbers are taken: plain
values, arrays, random generators, containers of these, and MuJoCo's whole simulation state (derived quantities included: some
environments read them before they are computed anew). What is the same in every copy (spaces, models, functions) or only
shows (windows, renderers) stays as it is. An environment that holds anything else has a state nobody can see: it is put back by
replaying its episode (`anypo.tasks.gym.GymEpisode`).
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

SAME = (
    gymnasium.Space,
    gymnasium.envs.registration.EnvSpec,
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
)
"""What is the same in every copy of an environment."""

VIEWS = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering", "glfw")
"""Modules whose objects only show."""

CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "deque": deque}
STORABLE = "?bhilqBfd"
"""Types of arrays that are stored as they are; others as lists."""


class Unknown(Exception):
    """An attribute that cannot be taken."""


def layers(environment: Any) -> Iterator[Any]:
    """The wrappers from the outside in, and the world itself."""
    layer = environment
    while isinstance(layer, gymnasium.Wrapper):
        yield layer
        layer = layer.env
    yield layer


def take(environment: Any) -> list[dict[str, Any]] | None:
    """The state of every layer; None where something in it cannot be taken."""
    try:
        return [
            {name: frozen for name, value in vars(layer).items() if name != "env" and (frozen := _freeze(value)) != {}}
            for layer in layers(environment)
        ]
    except Unknown:
        return None


def put(environment: Any, state: list[dict[str, Any]]) -> None:
    """Put a copy of the environment into a state that `take` returned."""
    for layer, fields in zip(layers(environment), state, strict=True):
        for name, frozen in fields.items():
            if "simulation" in frozen:
                _put_simulation(getattr(layer, name), frozen["simulation"])
            else:
                setattr(layer, name, _thaw(frozen))


def _freeze(value: Any) -> dict[str, Any]:
    """One value as a mapping of its kind to plain data; empty for what stays as it is."""
    if value is None or (
        isinstance(value, (bool, int, float, complex, str, bytes)) and not isinstance(value, np.generic)
    ):
        return {"value": value}
    if isinstance(value, np.generic):
        return {"scalar": _array(np.asarray(value))}
    if type(value) is np.ndarray and value.dtype != object:
        return {"array": _array(value)}
    if isinstance(value, np.random.Generator):
        return {"random": random_state(value)}
    if type(value) in CONTAINERS.values():
        kind = type(value).__name__
        return {kind: [_needed(item) for item in value], "maxlen": getattr(value, "maxlen", None)}
    if isinstance(value, dict):
        return {"dict": [[_needed(key), _needed(item)] for key, item in value.items()]}
    if type(value).__module__.split(".")[0] == "mujoco":
        return {"simulation": _simulation(value)} if type(value).__name__ == "MjData" else {}
    if isinstance(value, SAME) or type(value).__module__.startswith(VIEWS):
        return {}
    raise Unknown(type(value).__name__)


def _needed(value: Any) -> dict[str, Any]:
    """A member of a container, which cannot be left out."""
    frozen = _freeze(value)
    if not frozen or "simulation" in frozen:
        raise Unknown(type(value).__name__)
    return frozen


def _thaw(frozen: dict[str, Any]) -> Any:
    kind, value = next(iter(frozen.items()))
    if kind == "value":
        return value
    if kind == "scalar":
        return _unarray(value)[()]
    if kind == "array":
        return _unarray(value)
    if kind == "random":
        return generator(value)
    if kind == "dict":
        return {_thaw(key): _thaw(item) for key, item in value}
    items = [_thaw(item) for item in value]
    return deque(items, frozen["maxlen"]) if kind == "deque" else CONTAINERS[kind](items)


def _array(value: np.ndarray) -> dict[str, Any]:
    plain = value.dtype.char in STORABLE and value.dtype.isnative
    return {"dtype": value.dtype.str, "data": value.copy() if plain else value.tolist(), "shape": list(value.shape)}


def _unarray(saved: dict[str, Any]) -> np.ndarray:
    return np.array(saved["data"], dtype=saved["dtype"]).reshape(saved["shape"])


def random_state(source: np.random.Generator) -> dict[str, Any]:
    """The state of a random generator as plain data."""
    return _freeze(dict(source.bit_generator.state))


def generator(state: dict[str, Any]) -> np.random.Generator:
    """A random generator in a state that `random_state` returned."""
    plain = _thaw(state)
    bits = getattr(np.random, plain["bit_generator"])()
    bits.state = plain
    return np.random.Generator(bits)


def _simulation(data: Any) -> dict[str, Any]:
    """Every array of MuJoCo's simulation state and its time."""
    arrays = {name: getattr(data, name) for name in dir(data) if not name.startswith("_")}
    return {"time": data.time} | {
        name: np.array(value)
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and value.size and value.dtype.char in STORABLE and value.flags.writeable
    }


def _put_simulation(data: Any, saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        if name == "time":
            data.time = value
            continue
        mine = getattr(data, name)
        if mine.shape == np.shape(value):  # what depends on the contacts is sized, and computed, anew in every step
            mine[...] = value
