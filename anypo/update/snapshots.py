"""A reference that remembers: the log-probability of every decision under the very weights that sampled it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.freshness import same_sampler
from anypo.outlook import Outlook
from anypo.update.base import Reference


class VersionedReference(Reference, name="versioned"):
    """Snapshots of the last `keep` steps' weights; ``logp_ref`` of a decision is that of the snapshot with its policy version
    (snapshot-based version tracking, arXiv:2605.12070).

    With it a ratio to the sampler splits exactly into ref / behaviour (same weights, another engine) and current / ref (same
    engine, older weights), also inside responses that several versions wrote. `keep` must be above the largest staleness;
    where that is not known beforehand, a version that is gone is replaced by the closest one kept. Costs `keep` copies of the
    weights that are trained.
    """

    provides = frozenset({"reference"})
    remembers = True
    keep: int = Field(9, ge=1)

    def refuse(self, algorithm: Any) -> str | None:
        oldest = max(getattr(algorithm.replay, "lag", 0), getattr(algorithm.replay, "window", 0))
        if self.keep > oldest:
            return None
        return (
            f"rollouts are up to {oldest} steps old, and the weights of {self.keep} steps are kept; set "
            f"update.reference.keep={oldest + 1}"
        )

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return same_sampler(algorithm)

    def begin(self, policy: Any) -> Any:
        return Snapshots(self.keep, policy)

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        reference.add(policy)
        context.log("update/snapshots", len(reference.kept))
        return reference


class Snapshots:
    """Frozen policies by version, the oldest dropped beyond `keep`. Fills columns as a policy does, row by row from the snapshot
    of the row's version."""

    def __init__(self, keep: int, policy: Any) -> None:
        self.keep = keep
        self.kept: dict[int, Any] = {}
        self.add(policy)

    def add(self, policy: Any) -> None:
        """Remember the policy as it is now."""
        if policy.version not in self.kept:
            self.kept[policy.version] = policy.frozen()
        for version in sorted(self.kept)[: -self.keep]:
            del self.kept[version]

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns, [N], without gradient."""
        known = torch.tensor(sorted(self.kept))
        nearest = known[(batch["version"][:, None] - known[None, :]).abs().argmin(1)]
        out: dict[str, Tensor] = {}
        for version in torch.unique(nearest).tolist():
            mine = nearest == version
            sequences = torch.unique(batch.sequence[mine])
            found = self.kept[version].fill(batch.select(sequences), names, grad=False)
            held = torch.isin(batch.sequence, sequences)
            for name, column in found.items():
                whole = out.setdefault(name, column.new_zeros(len(batch)))
                spread = column.new_zeros(len(batch))
                spread[held] = column
                whole[mine] = spread[mine]
        return out or {name: torch.zeros(0) for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {"versions": {version: policy.state_dict() for version, policy in self.kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        template = next(iter(self.kept.values()))
        self.kept = {}
        for version, weights in state["versions"].items():
            self.kept[int(version)] = policy = copy.deepcopy(template)
            policy.load_state_dict(weights)
            policy.version = int(version)
