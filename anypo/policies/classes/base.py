"""The policy room: what acts and is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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
