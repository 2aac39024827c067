"""What differs in the rooms around the losses, each as a share from 0 (as the base would have) to 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import CANCELLED, Group, Tokens, Trajectory
from anypo.update.base import Update
from anypo.update.gradient import GradientUpdate
from anypo.update.weights import Weights


def differing(ours: Iterable[Hashable], theirs: Iterable[Hashable]) -> float:
    """Share of the larger of two multisets that is not in the other."""
    a, b = Counter(ours), Counter(theirs)
    most = max(a.total(), b.total())
    return 1.0 - (a & b).total() / most if most else 0.0


def asked(asks: Sequence[Ask]) -> list[Hashable]:
    """What each ask wants, apart from how often it was asked for before."""
    return [
        (
            a.index,
            a.samples,
            a.problem.prompt if a.problem else -1,
            len(a.shown),
            a.start is not None,
            *sorted(a.plan.items()),
        )
        for a in asks
    ]


def rollouts(asks: Sequence[Ask], groups: Sequence[Group], ours: Algorithm, base: Algorithm, version: int) -> float:
    """Share of the rollouts that the base's generator would not have made. Known one by one where ours shows on each what it did
    (`Generate.traced`) to those that `independent` makes; where it does not, another generator counts as another rollout."""
    generate = ours.generate
    if generate == base.generate:
        return 0.0
    shared = {name: getattr(generate, name) for name in type(base.generate).model_fields if hasattr(generate, name)}
    if not generate.traced or base.generate.part != "independent" or shared != dict(base.generate):
        return 1.0
    made = [t for group in groups for t in group.trajectories]
    wanted = sum(ask.samples for ask in asks)
    kept = sum(plain(t, generate.max_new, generate.turns, version) for t in made)
    return 1.0 - kept / max(wanted, len(made), 1)


def plain(trajectory: Trajectory, most: int, turns: int, version: int) -> bool:
    """Whether a rollout could be one of `independent`: sampled in one go by the present weights and not given up, without help, from
    all tokens (those that no text is made of, which the engine leaves out of every rollout, are in none)."""
    content = trajectory.content
    return (
        not (trajectory.guidance or trajectory.tag or trajectory.parent >= 0)
        and trajectory.weight is None
        and trajectory.kept is None
        and trajectory.finish != CANCELLED
        and getattr(content, "shown", None) is None
        and bool((trajectory.version == version).all())
        and not (turns == 1 and trajectory.truncated and isinstance(content, Tokens) and len(trajectory) < most)
    )


def rewards(ours: Sequence[Group], theirs: Sequence[Group]) -> float:
    """Share of the rollouts whose reward differs; both lists have the same groups."""
    pairs = [(a.reward, b.reward) for x, y in zip(ours, theirs) for a, b in zip(x.trajectories, y.trajectories)]
    return sum(not np.isclose(a, b, equal_nan=True) for a, b in pairs) / len(pairs) if pairs else 0.0


def members(groups: Iterable[Group]) -> list[tuple[int, int, int, int]]:
    """Names of the rollouts of some groups of one step."""
    return [(g.prompt, g.visit, t.sample, number) for g in groups for number, t in enumerate(g.trajectories)]


def counted(batch: Batch, rows: int) -> Tensor:
    """Which of the decisions before credit count after it, bool [rows]."""
    found = torch.zeros(rows, dtype=torch.bool)
    found[batch["row"][batch.weight > 0]] = True
    return found


def uncommon(ours: Tensor, theirs: Tensor) -> float:
    """Share of what one of two masks has that not both have."""
    either = int((ours | theirs).sum())
    return 1.0 - int((ours & theirs).sum()) / either if either else 0.0


def stepped(update: Update, batch: Batch) -> int | None:
    """Optimiser steps that an update takes on a batch as credit left it; None where it is no gradient update."""
    if type(update) is not GradientUpdate:
        return None
    groups = len(torch.unique(batch.group))
    pieces = len(torch.arange(groups).chunk(update.minibatches_per_epoch)) if groups else 0
    return update.epochs * pieces


def alike(ours: Update, base: Update) -> bool:
    """Whether two updates that take gradients step alike but for their number, their rate and their step rules, which are looked at
    while they act. Learning rates and the bound on the gradient are sizes."""
    if not (isinstance(ours, GradientUpdate) and isinstance(base, GradientUpdate)):
        return ours == base
    fields = ("part", "beta1", "beta2", "weight_decay", "momentum")
    sort = lambda update: [getattr(update.optimiser, name, None) for name in fields]
    return sort(ours) == sort(base)


def references_apart(ours: Update, base: Update, weights: Weights) -> bool:
    """Whether a reference that the base keeps, too, begins at other weights here than there: what is read of it is another number."""
    same = {keeper.name for keeper in base.keepers() if not keeper.begins_apart}
    apart = [keeper.name for keeper in ours.keepers() if keeper.begins_apart and keeper.name in same]
    own = weights.policy.state_dict() if apart else {}
    kept = [weights.references[name].state_dict() for name in apart]
    return any(not torch.equal(value, one[name]) for one in kept for name, value in own.items())


def relative(ours: Collection[float], theirs: Collection[float]) -> float:
    """How far a list of numbers is from another, at most 1."""
    gaps = [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in zip(ours, theirs)]
    return float(np.mean(gaps)) if gaps else 0.0
