"""A value model beside a language policy: V(s_t) at every decision, trained as a learner of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.policies.language.causal import LanguagePolicy


class Critic:
    """Fills ``value`` [N]: the expected return from the state in which each decision is taken, in units of the reward.

    mode ``head``: a head on the policy's own last hidden state, detached, so it never moves the policy and costs one forward
    pass without gradient (none when the batch holds the column ``hidden``). mode ``copy``: a head on a trainable copy of the
    policy's network (of its adapters, for LoRA). width: hidden units of the head (0: linear). Hidden states are layer-normalised
    first; the last layer starts at zero, so every value is 0 before training. The head is float32.
    """

    columns = frozenset({"value"})

    def __init__(self, policy: Any, mode: Literal["head", "copy"] = "head", width: int = 0, seed: int = 0) -> None:
        if mode not in ("head", "copy"):
            raise ValueError(f"a critic's mode is 'head' or 'copy', not {mode!r}")
        self.policy = policy
        self.trunk = _copy(policy) if mode == "copy" else None
        size = policy.causal.get_input_embeddings().embedding_dim
        device = policy.causal.get_input_embeddings().weight.device
        last = nn.Linear(width or size, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers: list[nn.Module] = [last]
        if width:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                layers = [nn.Linear(size, width), nn.Tanh(), last]
        self.head = nn.Sequential(*layers).to(device)

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """``value`` [N], connected to the critic's parameters when `grad`."""
        if not names:
            return {}
        with torch.set_grad_enabled(grad):
            if self.trunk is not None:
                hidden = self.trunk.hidden(batch)
            elif "hidden" in batch.rows:
                hidden = batch["hidden"].detach()
            else:
                hidden = self.policy.fill(batch, {"hidden"}, grad=False)["hidden"]
            weight = next(self.head.parameters())
            features = F.layer_norm(hidden.to(weight), hidden.shape[-1:])
            return {"value": self.head(features).squeeze(-1).to(batch.sequence.device)}

    def parameters(self) -> list[nn.Parameter]:
        """The head's parameters, and the trunk's in mode ``copy``."""
        return [*self.head.parameters(), *(self.trunk.parameters() if self.trunk is not None else [])]

    def matrices(self) -> list[nn.Parameter]:
        """Those of the trunk's layers."""
        return self.trunk.matrices() if self.trunk is not None else []

    def state_dict(self) -> dict[str, Any]:
        state = {f"head.{name}": value.clone() for name, value in self.head.state_dict().items()}
        trunk = self.trunk.state_dict() if self.trunk is not None else {}
        return state | {f"trunk.{name}": value for name, value in trunk.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(_below("head.", state))
        if self.trunk is not None:
            self.trunk.load_state_dict(_below("trunk.", state))


def _copy(policy: LanguagePolicy) -> LanguagePolicy:
    """The policy's network with weights of its own, trainable where the policy's are."""
    twin = policy.frozen()
    for mine, theirs in zip(twin.own().values(), policy.own().values()):
        mine.requires_grad_(theirs.requires_grad)
    learner = LanguagePolicy(twin.model, twin.chat, twin.source)
    learner.recompute(policy.forward.checkpointing)
    return learner


def _below(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
