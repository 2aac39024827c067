"""The policy room: what acts and is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anypo.errors import UserError
from anypo.parts import Part

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Wanted:
    """What a run says about its policy. model: a name, a folder or a hub id ("" where the policy class needs none); task: the loaded
    task, whose spaces a policy may have to fit; lora: adapter rank (0 for none) or its fields; device: where its weights live;
    chat: arguments of its chat template."""

    task: Any
    model: str = ""
    seed: int = 0
    dtype: str = "float32"
    lora: int | Mapping[str, Any] = 0
    device: str | torch.device = "cpu"
    chat: Mapping[str, Any] = field(default_factory=dict)


class PolicyClass(Part, slot="policy"):
    """Builds the policy of a run."""

    def check_acts(self, task: Any) -> None:
        """Raise `UserError` where such a policy cannot act in `task`, before any is built."""

    def build(self, wanted: Wanted) -> Any:
        """A new policy (`anypo.policies.base.Policy`). Raises `UserError` when it cannot act in the task."""
        raise NotImplementedError

    def open(self, wanted: Wanted, weights: str = "") -> Any:
        """The policy, with the weights that a finished run left in the folder `weights` where one is named."""
        policy = self.build(wanted)
        if weights:
            policy.load(weights)
        return policy


class Given(PolicyClass, name="given"):
    """The model the user named."""

    def check_acts(self, task: Any) -> None:
        if hasattr(task, "actions"):
            raise UserError(f"task '{task.name}' takes actions, not text; choose a policy for it: --set policy=mlp")

    def build(self, wanted: Wanted) -> Any:
        self.check_acts(wanted.task)
        from anypo import policies  # loads models, which the grammar itself never needs

        return policies.load(
            wanted.model, wanted.dtype, wanted.lora or None, wanted.seed, device=wanted.device, chat=wanted.chat
        )

    def open(self, wanted: Wanted, weights: str = "") -> Any:
        return self.build(replace(wanted, model=weights or wanted.model))


def bounded(task: Any, part: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Size of an observation and the bounds of an action. `UserError` where the action space is no bounded box."""
    space = getattr(task, "actions", None)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        name = getattr(task, "name", "this task")
        raise UserError(
            f"policy={part} acts with vectors in finite bounds, and {name} acts with {space or 'text'}; choose a task with a "
            "bounded Box of actions (Pendulum-v1), or another policy"
        )
    return int(np.prod(task.observation.shape or (1,))), low, high
