"""The tokens of a language batch: those decided, and those of other roles, charged to the decisions beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from anypo.data.batch import Batch
from anypo.data.kept import Kept
from anypo.data.records import CONTEXT, OBSERVATION, Tokens, Trajectory
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
    return flat[decisions(batch)]


def until(tokens: np.ndarray, ends: Sequence[str], decode: Callable[[np.ndarray], str]) -> int:
    """How many tokens it takes until their text contains one of `ends`; 0 where it never does."""

    def found(length: int) -> bool:
        text = decode(tokens[:length])
        return any(end in text for end in ends)

    low, high = 0, len(tokens)
    if not found(high):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def decisions(batch: Batch) -> Tensor:
    """Where each row of `batch` stands in the concatenation of its trajectories' decisions, [N]."""
    lengths = torch.tensor([len(t) for t in batch.trajectories], dtype=torch.int64, device=batch.sequence.device)
    return (lengths.cumsum(0) - lengths)[batch.sequence] + batch["position"]


def unlisted_mass(batch: Batch) -> Tensor:
    """``log_mass`` of the rows for which nobody listed what truncation kept, 0 elsewhere, [N]; and 0 where the context is not the one
    that was sampled in, of which nobody knows what truncation would keep."""
    mass = batch["log_mass"]
    if all(t.kept is None and not elsewhere(t) for t in batch.trajectories):
        return mass
    settled = [
        np.ones(len(t), bool) if elsewhere(t) else np.zeros(len(t), bool) if t.kept is None else t.kept.counts > 0
        for t in batch.trajectories
    ]
    return mass.masked_fill(torch.from_numpy(np.concatenate(settled))[decisions(batch)].to(mass.device), 0.0)


def elsewhere(trajectory: Trajectory) -> bool:
    """Whether a trajectory's own content is another context than the sampler saw (`Tokens.shown`)."""
    return getattr(trajectory.content, "shown", None) is not None


def kept_here(trajectory: Trajectory) -> Kept | None:
    """What truncation kept, where the trajectory's content is the context that it was sampled in."""
    return None if elsewhere(trajectory) else trajectory.kept


def kept_tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    """What truncation kept, as pairs: ids [K] and the rows of `batch` they belong to [K]; of rows whose own token is among them
    (`anypo.data.kept.Kept.around`)."""
    ids, places, first = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for trajectory in batch.trajectories:
        kept = kept_here(trajectory)
        if kept is not None and isinstance(trajectory.content, Tokens):
            inside, owner = kept.around(trajectory.content.tokens[trajectory.content.actions])
            ids.append(inside.astype(np.int64))
            places.append(first + owner)
        first += len(trajectory)
    row = torch.full((first,), -1, dtype=torch.int64)
    row[decisions(batch)] = torch.arange(len(batch))
    found, rows = torch.from_numpy(np.concatenate(ids)), row[torch.from_numpy(np.concatenate(places))]
    return found[rows >= 0], rows[rows >= 0]


ROLE_COLUMNS = {"logp_context": CONTEXT, "logp_observation": OBSERVATION}
"""Row columns a language policy fills for tokens it did not choose: for every decision, the sum of their log-probabilities at
temperature 1 over the tokens of that role charged to it (`charged`)."""


def charged(trajectories: Sequence[Trajectory], role: int) -> tuple[list[np.ndarray], Tensor]:
    """The tokens of a role that can be predicted: their indices in every trajectory, and for each of all K the place of the
    decision it is charged to in the concatenation of the trajectories' decisions, int64 [K].

    A token is charged to the last decision before it, or to the trajectory's first one; the first token of all follows nothing,
    so it cannot be predicted. A trajectory without decisions has no rows, and nothing to charge.
    """
    places, owners, first = [], [np.zeros(0, dtype=np.int64)], 0
    for trajectory in trajectories:
        content = trajectory.content
        here = np.zeros(0, dtype=np.int64)
        if isinstance(content, Tokens) and len(trajectory):
            here = np.flatnonzero(content.roles == role)
            here = here[here > 0]
            owners.append(first + np.maximum(np.searchsorted(content.actions, here) - 1, 0))
        places.append(here)
        first += len(trajectory)
    return places, torch.from_numpy(np.concatenate(owners))


def to_rows(batch: Batch, values: Tensor, owners: Tensor) -> Tensor:
    """Sum of `values` [K] over the tokens charged to each row's decision (see `charged`), [N]; differentiable."""
    total = sum(len(trajectory) for trajectory in batch.trajectories)
    sums = torch.zeros(total, dtype=values.dtype, device=values.device).index_add(0, owners.to(values.device), values)
    return sums[decisions(batch).to(values.device)]


def role_counts(batch: Batch, role: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens of a role charged to each row, [N]."""
    _, owners = charged(batch.trajectories, role)
    return to_rows(batch, torch.ones(len(owners), dtype=dtype), owners)


WIDTH = 256
"""Buckets of the hashed prompt features."""


def hashed(tokens: np.ndarray) -> np.ndarray:
    """Hashed counts of the tokens and of neighbouring pairs, scaled to unit length, [WIDTH]."""
    tokens = np.asarray(tokens).astype(np.uint64)
    pairs = tokens[1:] * np.uint64(1_000_003) + tokens[:-1] + np.uint64(7)
    mixed = np.concatenate([tokens + np.uint64(1), pairs]) * np.uint64(11400714819323198485)
    out = np.zeros(WIDTH, dtype=np.float32)
    np.add.at(out, (mixed >> np.uint64(56)).astype(np.int64), 1.0)
    return out / max(float(np.linalg.norm(out)), 1e-9)
