"""The token of every decision of a language batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anypo.data.batch import Batch
from anypo.data.records import Tokens
from anypo.errors import UserError


def decided_tokens(batch: Batch) -> Tensor:
    """The token of every decision, int64 [N]. Raises `UserError` for trajectories that are not made of tokens."""
    if "token" in batch.rows:
        return batch["token"]
    pieces = []
    for trajectory in batch.trajectories:
        if not isinstance(trajectory.content, Tokens):
            raise UserError("this method reads tokens, and the task's trajectories have none; choose a language task")
        pieces.append(trajectory.content.tokens[trajectory.content.actions])
    flat = torch.from_numpy(np.concatenate(pieces).astype(np.int64)) if pieces else torch.zeros(0, dtype=torch.int64)
    lengths = batch.sequences["length"]
    return flat[(lengths.cumsum(0) - lengths)[batch.sequence] + batch["position"]]
