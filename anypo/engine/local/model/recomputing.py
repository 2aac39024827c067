"""No memory at all: every step runs whole sequences through the training forward's own pass. Slow, and right for every model that
can be trained: for those whose state has another name than a cache of keys and values, or none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anypo.engine.local.backend import Work
from anypo.engine.local.handle import Handle
from anypo.engine.local.vocabulary import Vocabulary
from anypo.engine.training.networks import Network


class RecomputingBackend:
    """Handles hold nothing, so all of a handle's tokens are work in every step."""

    size = 1

    def __init__(self, network: Network, kv_tokens: int) -> None:
        self.network, self.budget = network, kv_tokens
        self.vocabulary = Vocabulary(None)

    def spare(self) -> int:
        return self.budget

    def used(self) -> int:
        return 0

    def find(self, handle: Handle) -> None:
        handle._memory, handle._cached = None, 0

    def grow(self, handle: Handle, length: int) -> bool:
        return True

    def drop(self, handle: Handle) -> None:
        handle._memory, handle._cached = None, 0

    def fork(self, parent: Handle, child: Handle, length: int) -> None:
        """Nothing is held, so nothing is shared."""

    def publish(self, handle: Handle, whole: bool) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""

    def settle(self) -> None:
        """Parameters are only ever used through the model."""

    def chunk(self, handle: Handle, rows: int) -> int:
        return 1 << 30  # a part of a sequence would be run again with the rest

    def run(self, work: Sequence[Work]) -> Tensor:
        contexts = [w.tokens for w in work]
        places = [range(len(w.tokens) - w.wanted, len(w.tokens)) for w in work]
        states, where = self.network.states(contexts, [torch.tensor(place).numpy() for place in places])
        states = states[torch.as_tensor(where, device=states.device)]
        head = self.network.head
        logits = (
            states
            if head.weight is None
            else nn.functional.linear(states.to(head.weight.dtype), head.weight, head.bias)
        )
        return logits.float()
