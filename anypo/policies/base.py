"""What a policy is to the rest of the library: something with parameters that fills columns of a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.errors import UserError


@runtime_checkable
class Learner(Protocol):
    """Anything trainable that fills differentiable row columns: the policy (``logp``, ``entropy``), a critic (``value``)."""

    #: Row columns it can fill with a gradient. A learner with ``holds = True`` is small enough that the pass which fills them is
    #: kept and pushed through, where others are asked again piece by piece. One with a method ``matrices()`` says which of its
    #: parameters are matrices inside of the network: neither embeddings nor heads.
    columns: frozenset[str]

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named row columns for `batch`, each [N] aligned with its rows; connected to the parameters when `grad`.

        Called on micro-batches (`Batch.select` of whole sequences) when `grad`, on anything otherwise.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Trainable parameters."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def fits(policy: Any, messages: Sequence[Mapping[str, Any]], most: int) -> bool:
    """Whether the policy's context has room for a conversation and `most` tokens of its own."""
    try:
        return len(policy.encode(messages)) + most <= int(policy.context)
    except UserError:  # longer than its whole context, or refused by its chat template
        return False


class Policy(Learner, Protocol):
    """A learner that also acts. `version` counts optimiser steps and is stamped on every sampled decision."""

    version: int

    def frozen(self) -> Policy:
        """An untrainable copy of the policy as it is now (reference, snapshot, teacher). LoRA policies may share the base."""
        ...
