"""Controls: parts that do what a method's part does, as much of it and as often, but for no reason. They are known only where claims
are loaded, and enter an algorithm after everything else is set (`Changed`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context
from anypo.control.base import Ask
from anypo.control.beliefs import HardFocus
from anypo.control.budgets import ValueBudget
from anypo.control.staged import Staged
from anypo.credit.adversary import DifficultyAdversary
from anypo.credit.retrospect import Retrospect
from anypo.credit.select.distinct import Distinct
from anypo.credit.select.rollouts import AdvantageVariance, UncertainTokens
from anypo.credit.weights import LengthAdvantage
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.generate.base import World
from anypo.generate.groups.deepened import Deepened
from anypo.generate.watched.pooled import Pooled
from anypo.generate.watched.pruned import Pruned


@dataclass(frozen=True)
class Changed(Testbed):
    """A testbed that changes every algorithm last of all."""

    change: Callable[[Algorithm], Algorithm] = lambda algorithm: algorithm

    def adapt(self, algorithm: Algorithm | str) -> Algorithm:
        return self.change(super().adapt(algorithm))


def changed(bed: Testbed, change: Callable[[Algorithm], Algorithm]) -> Changed:
    """`bed` with every algorithm changed last of all."""
    return Changed(**{field.name: getattr(bed, field.name) for field in fields(Testbed)}, change=change)


def swap(algorithm: Algorithm, room: str, field: str, value: Any) -> Algorithm:
    """The algorithm with one field of one room replaced by `value` itself."""
    return algorithm.replace(**{room: getattr(algorithm, room).replace(**{field: value})})


def draw(context: Context, salt: int) -> np.random.Generator:
    """Random numbers of this step."""
    return np.random.default_rng([context.seed, context.step, salt])


class RandomDrop(Distinct, name="dropped_by_lot"):
    """Drops as many rollouts of every group, whichever they are; demonstrations stay."""

    def select(self, batch: Batch, context: Context) -> Batch:
        kept = super().select(batch, context)
        left = torch.bincount(kept.group[~kept.sequences["demo"]], minlength=batch.n_groups)
        keep = batch.sequences["demo"].clone()
        rng = draw(context, 101)
        for group in torch.unique(batch.group).tolist():
            own = ((batch.group == group) & ~batch.sequences["demo"]).nonzero().flatten().numpy()
            keep[torch.from_numpy(rng.permutation(own)[: int(left[group])])] = True
        return batch.select(keep)


class RandomRollouts(AdvantageVariance, name="rollouts_by_lot"):
    """Keeps as many rollouts, whichever they are."""

    def select(self, batch: Batch, context: Context) -> Batch:
        size = super().select(batch, context).n_sequences
        keep = torch.zeros(batch.n_sequences, dtype=torch.bool)
        keep[torch.from_numpy(draw(context, 102).permutation(batch.n_sequences)[:size])] = True
        return batch.select(keep)


class RandomTokens(UncertainTokens, name="decisions_by_lot"):
    """Keeps as many decisions, whichever they are."""

    def select(self, batch: Batch, context: Context) -> Batch:
        size = int((super().select(batch, context).weight > 0).sum())
        counted = (batch.weight > 0).nonzero().flatten()
        keep = torch.zeros(len(batch.weight), dtype=torch.bool)
        keep[counted[torch.from_numpy(draw(context, 103).permutation(len(counted))[:size])]] = True
        return batch.with_rows(weight=batch.weight * keep)


class RandomRates(ValueBudget, name="budget_by_lot"):
    """Plans by success rates drawn by lot."""

    def _rates(self, asks: list[Ask], context: Context) -> list[float]:
        return draw(context, 104).uniform(0.02, 0.98, len(asks)).tolist()  # type: ignore[no-any-return]


class RandomPool(HardFocus, name="depth_by_lot"):
    """Goes into depth on as many problems, whichever they are."""

    def _narrow(self, problems: int, memory: dict[str, Any]) -> list[int]:
        size = len(super()._narrow(problems, memory))
        rng = np.random.default_rng([problems, memory["cursor"], 105])
        return rng.permutation(memory["pool"] or sorted(memory["rates"]))[:size].tolist()  # type: ignore[no-any-return]


class Constant(Retrospect, name="always_again"):
    """Uses the last batch once more, as if its update had always helped by one standard deviation."""

    def _feedback(self, fresh: Tensor, means: list[float], context: Context) -> float:
        return 1.0 if super()._feedback(fresh, means, context) else 0.0


class Shuffled(Retrospect, name="again_by_lot"):
    """Feedback drawn from a standard normal law."""

    def _feedback(self, fresh: Tensor, means: list[float], context: Context) -> float:
        given = super()._feedback(fresh, means, context)
        xi = float(draw(context, 106).standard_normal()) if given else 0.0
        return xi if xi >= 0 else self.backward * xi


class OtherGroups(LengthAdvantage, name="weights_by_lot"):
    """The same weights, handed to the groups by lot."""

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return to_others(super().factor(values, batch, context), batch, context)


class HardFirst(Staged, name="staged_backwards"):
    """The same stages, the hardest first."""

    def now(self, context: Context) -> int:
        return len(self.edges) - super().now(context)


class DepthByLot(Deepened, name="deepened_by_lot"):
    """As many further rollouts, for other prompts."""

    def wishes(self, right: Sequence[Sequence[bool]], context: Context) -> list[int]:
        own = super().wishes(right, context)
        return [own[i] for i in draw(context, 108).permutation(len(own))]


class OverSampled(Pooled, name="over_sampled"):
    """As many groups begun, and what is not complete is thrown away."""

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        made = super().rollout(asks, world, context)
        context.memory[self]["pool"] = []
        return made


class PrunedByLot(Pruned, name="pruned_by_lot"):
    """As many rollouts given up, whichever they are."""

    def chances(self, logits: np.ndarray, counts: np.ndarray, context: Context) -> np.ndarray:
        return np.full(len(logits), self.keep)


class DifficultiesByLot(DifficultyAdversary, name="difficulty_weights_by_lot"):
    """The adversary's weights, handed to the groups by lot."""

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        return to_others(super().factor(values, batch, context), batch, context)


def to_others(weights: Tensor, batch: Batch, context: Context) -> Tensor:
    """Weights of groups [S], each handed to another group."""
    present = torch.unique(batch.group)
    if not len(present):
        return weights
    own = torch.stack([weights[batch.group == group][0] for group in present])
    mixed = own[torch.from_numpy(draw(context, 107).permutation(len(present)))]
    return mixed[torch.searchsorted(present, batch.group)]


def random_drop(algorithm: Algorithm) -> Algorithm:
    """Selection by distinctiveness, by lot."""
    return swap(algorithm, "credit", "select", (RandomDrop(**settings(algorithm.credit.select[0])),))  # type: ignore[attr-defined]


def random_selection(algorithm: Algorithm) -> Algorithm:
    """Down-sampling of rollouts and of decisions, by lot."""
    rollouts, tokens = algorithm.credit.select  # type: ignore[attr-defined]
    chosen = (RandomRollouts(**settings(rollouts)), RandomTokens(**settings(tokens)))
    return swap(algorithm, "credit", "select", chosen)


def random_plan(algorithm: Algorithm) -> Algorithm:
    """A step's rollouts planned for rates drawn by lot, under the same limits."""
    return algorithm.replace(control=RandomRates(**settings(algorithm.control)))


def random_pool(algorithm: Algorithm) -> Algorithm:
    """Depth on problems drawn by lot."""
    return algorithm.replace(control=RandomPool(**settings(algorithm.control)))


def constant_feedback(algorithm: Algorithm) -> Algorithm:
    """Every batch once more."""
    return algorithm.replace(credit=Constant(**settings(algorithm.credit)))


def random_feedback(algorithm: Algorithm) -> Algorithm:
    """Every batch once more, forwards or backwards by lot."""
    return algorithm.replace(credit=Shuffled(**settings(algorithm.credit)))


def random_weights(algorithm: Algorithm) -> Algorithm:
    """The weights of groups, handed out by lot."""
    return swap(algorithm, "credit", "group_weight", OtherGroups(**settings(algorithm.credit.group_weight)))  # type: ignore[attr-defined]


def over_sampled(algorithm: Algorithm) -> Algorithm:
    """Over-provisioned rollouts of which the unfinished ones are lost."""
    return algorithm.replace(generate=OverSampled(**settings(algorithm.generate)))


def random_pruning(algorithm: Algorithm) -> Algorithm:
    """Pruning by lot."""
    return algorithm.replace(generate=PrunedByLot(**settings(algorithm.generate)))


def settings(part: Any) -> dict[str, Any]:
    """The fields of a part."""
    return {name: getattr(part, name) for name in type(part).model_fields}
