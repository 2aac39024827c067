"""The plain members of every pipeline step: identities, sums, standard deviations."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Combine, Components, Credit, Granularity, GroupWeight, Normalise, Scale
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.outlook import Outlook


class Uncredited(Credit, name="none"):
    """No advantages: for updates that look at rewards alone, and objectives that look at none."""

    def assign(self, batch: Batch, context: Context) -> Batch:
        return batch

    def refuse(self, algorithm: Any) -> str | None:
        if algorithm.objective.fits() and "unrewarded" not in algorithm.objective.provided():
            return (
                f"it fills no advantages, which objective={algorithm.objective.part} may read; set objective=none too"
            )
        return None


class Scalar(Components, name="scalar"):
    """The task's scalar reward, [S, 1]."""

    def matrix(self, batch: Batch) -> Tensor:
        return batch.sequences["reward"].unsqueeze(1)


class Named(Components, name="named"):
    """Named reward components as columns of their own, [S, K] (GDPO, arXiv:2601.05242); NaN counts as 0.

    `names`: which components, in this order; empty takes those of which the scalar reward is made (weight other than 0), sorted by
    name. What is only measured, or written by a signal and not paid, is none of them. Where rollouts do not say what their reward
    is made of: all that the batch has, the scalar reward if none.
    """

    names: tuple[str, ...] = ()

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.task is None or algorithm.filter.signals or len(self.names) > 1:
            return None
        counted = [name for name, weight in outlook.task.weights.items() if weight]
        if len(counted) > 1:
            return None
        alone = f"task '{outlook.task.name}' pays {counted[0] if counted else 'one thing'} alone"
        return f"{alone}; a task of several rewards, or a signal that pays one, lets it act"

    def matrix(self, batch: Batch) -> Tensor:
        known = sorted(name.removeprefix("reward/") for name in batch.sequences if name.startswith("reward/"))
        for name in self.names:
            if name not in known:
                raise UserError(f"no trajectory has the reward component '{name}'; known: {', '.join(known) or 'none'}")
        columns = [batch.sequences[f"reward/{name}"] for name in self._chosen(batch)] or [batch.sequences["reward"]]
        return torch.stack(columns, 1).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def worth(self, batch: Batch) -> tuple[float, ...]:
        weights = paid(batch)
        return tuple(weights.get(name, 1.0) for name in self._chosen(batch)) if weights else ()

    def _chosen(self, batch: Batch) -> list[str]:
        weights = paid(batch)
        known = sorted(name.removeprefix("reward/") for name in batch.sequences if name.startswith("reward/"))
        return list(self.names) or [name for name in known if weights.get(name, 0.0 if weights else 1.0) != 0]


def paid(batch: Batch) -> dict[str, float]:
    """What each named component counts for in the scalar reward, as the rollouts say; empty where none does."""
    return {name: float(weight) for t in batch.trajectories for name, weight in t.weights.items()}


class Unscaled(Scale, name="none"):
    """No scaling."""

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.ones_like(values)


class StandardDeviation(Scale, name="std"):
    """Standard deviation of the rewards over the group or the batch, plus `eps`.

    `ddof`: 1 for the sample standard deviation (GRPO's reference implementations), 0 for the population one. Fewer than
    ddof + 1 samples divide by 1 (their centred reward is 0 or undefined otherwise).
    """

    scope: Literal["group", "batch"] = "group"
    ddof: int = Field(1, ge=0, le=1)
    eps: float = Field(1e-6, ge=0.0)
    of: Literal["values", "centred"] = "values"

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        source = values if self.of == "values" else centred
        ids = batch.group if self.scope == "group" else torch.zeros_like(batch.group)
        n = batch.n_groups if self.scope == "group" else 1
        spread = segments.std(source, ids, n, self.ddof) + self.eps
        enough = segments.count(ids, n, values.dtype).unsqueeze(1) > self.ddof
        return torch.where(enough & (spread > 0), spread, torch.ones_like(spread))[ids]


class Unweighted(GroupWeight, name="none"):
    """Every group counts alike."""

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return torch.ones_like(values[:, 0])


class Summed(Combine, name="sum"):
    """Sum over components."""

    def combine(self, advantages: Tensor, worth: tuple[float, ...], batch: Batch, context: Context) -> Tensor:
        return advantages.sum(1)


class Weighted(Combine, name="weighted"):
    """Sum of w_k times component advantage k; `weights` in the order of the components, empty for those of the reward (all ones where
    they are not known). The weights act on normalised advantages, so they are priorities and do not compete with the components'
    own variances (GDPO)."""

    weights: tuple[float, ...] = ()

    def combine(self, advantages: Tensor, worth: tuple[float, ...], batch: Batch, context: Context) -> Tensor:
        weights = self.weights or worth or (1.0,) * advantages.shape[1]
        if len(weights) != advantages.shape[1]:
            raise UserError(
                f"credit.combine.weights has {len(weights)} entries for {advantages.shape[1]} reward components; "
                "name the components in credit.components.names and give one weight each"
            )
        return advantages @ torch.tensor(weights, dtype=advantages.dtype)


class Averaged(Combine, name="mean"):
    """Mean over components (BNPO's advantage decomposition)."""

    def combine(self, advantages: Tensor, worth: tuple[float, ...], batch: Batch, context: Context) -> Tensor:
        return advantages.mean(1)


class Unnormalised(Normalise, name="none"):
    """No batch normalisation."""

    def normalise(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        return advantages


class Whiten(Normalise, name="whiten"):
    """Subtract the batch mean (unless `centre` is false) and divide by the sample standard deviation plus `eps`.

    `over`: statistics over sequences, or over counted rows (a long response weighs more), as token-level whitening does.
    """

    centre: bool = True
    eps: float = Field(1e-8, ge=0.0)
    over: Literal["sequences", "rows"] = "sequences"

    def normalise(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        weights = torch.ones_like(advantages)
        if self.over == "rows":
            weights = batch.sequence_sum(torch.ones_like(batch.weight)).to(advantages.dtype)
        total = weights.sum()
        if total <= 1:
            return advantages
        origin = advantages.min()  # around the minimum: equal advantages deviate by exactly nothing
        mean = origin + ((advantages - origin) * weights).sum() / total
        spread = (((advantages - mean) ** 2 * weights).sum() / (total - 1)).sqrt()
        shifted = advantages - mean if self.centre else advantages
        return shifted / (spread + self.eps) if spread > 0 else shifted


class Whole(Granularity, name="trajectory"):
    """Every decision of a trajectory gets the trajectory's advantage."""

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        return batch.spread(advantages)
