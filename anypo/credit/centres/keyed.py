"""Baselines over the rollouts of a group that share a key: an episode's session, the state it began in, its member."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre, Scale
from anypo.credit.centres.groups import leave_one_out
from anypo.data import segments
from anypo.data.batch import KEYS, Batch
from anypo.errors import UserError


class Keyed(Centre, name="keyed"):
    """Mean reward of the group's trajectories that agree in every key of `by` (local groups of LoGo-GRPO, arXiv:2605.21768, with
    by = (session,)); with `leave_one_out`, of the other ones. A trajectory that shares its keys with nobody is its own baseline:
    nothing is known of it. For keys of decisions (a state visited on the way) see ``granularity=keyed_returns``."""

    by: tuple[str, ...] = Field(("session",), min_length=1)
    leave_one_out: bool = False
    least = 2

    def required(self) -> frozenset[str]:
        return key_features(self.by)

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        ids, n = sequence_units(batch, self.by)
        return shared_baseline(values, ids, n, self.leave_one_out)


class KeyedDeviation(Scale, name="keyed_std"):
    """Standard deviation of the rewards over the group's trajectories that agree in every key of `by`, plus `eps`; 1 where fewer
    than ddof + 1 of them do."""

    by: tuple[str, ...] = Field(("session",), min_length=1)
    ddof: int = Field(1, ge=0, le=1)
    eps: float = Field(1e-6, ge=0.0)

    def required(self) -> frozenset[str]:
        return key_features(self.by)

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        ids, n = sequence_units(batch, self.by)
        return shared_deviation(values, ids, n, self.ddof, self.eps)


def key_features(by: tuple[str, ...]) -> frozenset[str]:
    """What somebody must provide for these keys to be there (``key:state``); every batch has those of `KEYS`."""
    return frozenset(f"key:{name}" for name in by if name not in KEYS)


def sequence_units(batch: Batch, by: tuple[str, ...]) -> tuple[Tensor, int]:
    """Id of the trajectories of a group that agree in all keys, int64 [S], and how many ids there are. A trajectory without one of
    the keys shares with nobody. `UserError` for a key that differs inside trajectories."""
    columns = [batch.group]
    alone = torch.zeros(batch.n_sequences, dtype=torch.bool)
    for name in by:
        column = f"key/{name}" if name not in KEYS else name
        if column not in batch.sequences:
            if len(batch):
                batch.key(name)  # says so where nobody has it
                raise UserError(
                    f"key '{name}' belongs to decisions, not to whole trajectories; use credit.granularity=keyed_returns"
                )
            return batch.group, batch.n_groups
        columns.append(batch.sequences[column])
        alone |= batch.sequences[column] < 0
    return segments.joint(*columns, single(alone))


def single(alone: Tensor) -> Tensor:
    """A column that sets every marked entry apart from all others, int64."""
    return torch.where(alone, torch.arange(len(alone), device=alone.device), -1)


def shared_baseline(values: Tensor, ids: Tensor, n: int, without_own: bool) -> Tensor:
    """Mean of each entry's segment [n, ...] copied to its entries (of the other members with `without_own`); the value itself
    where it is alone."""
    if not without_own:
        return segments.mean(values, ids, n)[ids]
    size = segments.count(ids, n, values.dtype)[ids].reshape(-1, *([1] * (values.dim() - 1)))
    return torch.where(size > 1, leave_one_out(values, ids, n), values)


def shared_deviation(values: Tensor, ids: Tensor, n: int, ddof: int, eps: float) -> Tensor:
    """Standard deviation plus `eps` of each entry's segment, copied to its entries; 1 where too few or all equal and eps is 0."""
    spread = segments.std(values, ids, n, ddof) + eps
    enough = (segments.count(ids, n, values.dtype) > ddof).reshape(-1, *([1] * (values.dim() - 1)))
    return torch.where(enough & (spread > 0), spread, torch.ones_like(spread))[ids]


def log_shared(ids: Tensor, n: int, context: Any) -> None:
    """Mean size of the segments and the share of entries that share one: near 1 and 0, keys say nothing."""
    size = segments.count(ids, n)
    context.log("credit/key_size", size.mean() if n else 0.0)
    context.log("credit/key_shared", (size > 1)[ids].float().mean() if n else 0.0)
