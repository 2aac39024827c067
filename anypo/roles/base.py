"""What a model in a role is to the rest of the library: the policy itself, other weights, a server and a program are all alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from anypo.data.batch import Batch
from anypo.engine.base import Sampling
from anypo.errors import UserError

if TYPE_CHECKING:
    from anypo.tasks.base import Problem

Messages = Sequence[Mapping[str, str]]

DOES = {"ask": "answer questions", "fill": "score tokens", "predict": "judge problems nobody has answered"}
"""What a model may be able to do, in words."""


class Model:
    """A model that plays `role`, made from `spec`. No optimiser of the run moves its weights.

    able: what of `ask`, `fill` and `predict` it can do. The rest it refuses in a sentence; an algorithm that needs more is
    refused before anything is loaded (feature ``model:<role>:<ability>``).
    """

    able: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, role: str, spec: str) -> None:
        self.role, self.spec = role, spec

    @classmethod
    def check(cls, role: str, spec: str) -> None:
        """Raise `UserError` when `spec` cannot be had, as far as that shows without loading it."""

    def begin(self) -> None:
        """Training is about to begin: a copy of the policy is taken now."""

    def ask(self, prompts: Sequence[Messages], sampling: Sampling, seed: tuple[int, ...]) -> list[str]:
        """One answer to every conversation, in order. `seed` and the place in `prompts` key the random numbers."""
        raise self.unable("ask")

    def fits(self, prompt: Messages, sampling: Sampling) -> bool:
        """Whether it can be asked this, as far as that shows before it is."""
        return True

    def fill(self, batch: Batch, names: Collection[str], grad: bool = False) -> dict[str, Tensor]:
        """The named row columns of `batch` as this model sees them, each [N], without gradient."""
        raise self.unable("fill")

    def predict(self, problems: Sequence[Problem]) -> np.ndarray:
        """A number for every problem, before anyone has answered it, float64 [P]."""
        raise self.unable("predict")

    def describe(self) -> dict[str, Any]:
        """Where it comes from, for the manifest."""
        return {"model": self.spec}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of it: nothing, where its spec is enough to have it again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def weights(self) -> Mapping[str, Any]:
        """Weights that were loaded for it, by name, for the manifest's hash."""
        return {}

    def unable(self, ability: str) -> UserError:
        can = " and ".join(DOES[name] for name in DOES if name in self.able)
        return UserError(f"the {self.role} ({self.spec}) cannot {DOES[ability]}; it can only {can}")
