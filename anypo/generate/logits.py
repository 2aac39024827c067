"""The policy's distribution at every decision of given trajectories: for generators that need more than what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anypo.data.batch import Batch
from anypo.data.records import Trajectory
from anypo.errors import UserError


@torch.no_grad()
def next_logits(policy: Any, trajectories: Sequence[Trajectory]) -> Tensor:
    """Logits (temperature 1) from which every decision of `trajectories` is drawn, [N, V], rows as in `Batch.of`.

    From the policy's own method ``next_logits(batch)``, or its hidden states and output layer. Raises `UserError` for a
    policy that has neither (a remote engine).
    """
    batch = Batch.of(trajectories, [0] * len(trajectories), 1)
    if hasattr(policy, "next_logits"):
        return policy.next_logits(batch)
    if "hidden" in getattr(policy, "features", frozenset()) and hasattr(policy, "causal"):
        head = policy.causal.get_output_embeddings()
        hidden = policy.fill(batch, ["hidden"], grad=False)["hidden"]
        return head(hidden.to(head.weight.device, head.weight.dtype)).float().cpu()
    raise UserError(
        "this method needs the policy's next-token distribution, which this policy does not give; use a local model"
    )
