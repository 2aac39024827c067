"""What several parts read from a batch in the same way: outcomes, tool calls, entropies, tie-breaking order."""

from __future__ import annotations

import torch
from torch import Tensor

from anypo.data import segments
from anypo.data.batch import Batch
from anypo.errors import UserError

EARNED = "earned"
"""Sequence column with the scalar reward before shaping."""


def outcome(batch: Batch, component: str) -> Tensor:
    """The named reward component [S], or when `component` is empty the scalar reward, as it was before any shaping: a right answer
    stays one, however it is paid."""
    if not component:
        return batch.sequences.get(EARNED, batch.sequences["reward"])
    column = f"reward/{component}"
    if column not in batch.sequences:
        raise UserError(
            f"no trajectory has the reward component '{component}'; the task and the filter's signals give: "
            f"{', '.join(named(batch)) or 'none'}"
        )
    return batch.sequences[column]


def named(batch: Batch) -> list[str]:
    """The reward components that the rollouts of a batch have, sorted."""
    return sorted(name.removeprefix("reward/") for name in batch.sequences if name.startswith("reward/"))


def optional(batch: Batch, component: str) -> Tensor:
    """The named reward component [S]; zeros when the trajectories have no components at all, which nobody has then misspelt."""
    return outcome(batch, component) if named(batch) else torch.zeros_like(batch.sequences["reward"])


def tool_calls(batch: Batch, component: str) -> Tensor:
    """Tool calls per trajectory [S]: the reward component that counts them, or turns - 1 where nothing counts."""
    if f"reward/{component}" in batch.sequences:
        return batch.sequences[f"reward/{component}"]
    turns = segments.max(batch["turn"].to(batch.sequences["reward"].dtype), batch.sequence, batch.n_sequences)
    return turns.clamp(min=0.0)


def lengths(batch: Batch) -> Tensor:
    """Decisions per trajectory, in the dtype of the rewards, [S]."""
    return batch.sequences["length"].to(batch.sequences["reward"].dtype)


def row_order(batch: Batch, key: Tensor) -> Tensor:
    """Permutation of the rows by descending `key`; ties by group, sample and position, so that it does not depend on the order
    in which sequences were packed, [N]."""
    ids = torch.zeros_like(batch.sequence)
    sample = batch.spread(batch.sequences["sample"])
    return segments.order(ids, -key, batch.row_group, sample, batch["position"])


def sequence_order(batch: Batch, key: Tensor) -> Tensor:
    """Permutation of the sequences by descending `key`, ties by group and sample, [S]."""
    return segments.order(torch.zeros_like(batch.group), -key, batch.group, batch.sequences["sample"])
