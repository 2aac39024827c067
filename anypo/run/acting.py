"""The world a control policy is trained in: a Gymnasium environment, and no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anypo.engine.acting import Acting
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.policies.classes.networks import Mlp
from anypo.tasks.gym import GymTask


def control_world(
    environment_id: str,
    seed: int = 0,
    hidden: Sequence[int] = (64, 64),
    normalise: bool = False,
    options: Mapping[str, Any] | None = None,
) -> World:
    """A world with a new policy that fits the environment: categorical for discrete actions, Gaussian for vectors."""
    task = GymTask(environment_id, options)
    policy = Mlp(hidden=tuple(hidden), normalise=normalise).build(Wanted(task, seed=seed))
    return World(task, policy, Acting())


__all__ = ["Acting", "control_world"]
