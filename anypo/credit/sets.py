"""Credit for sets of rollouts: good and different together (polychromic objectives, arXiv:2509.25424)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.credit.alike import clusters, decided
from anypo.credit.base import Components
from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.errors import UserError
from anypo.parts import Part
from anypo.tasks.text.extract import ExtractName, extract

MOST_SETS = 20_000


class Sameness(Part, slot="sameness"):
    """Which rollouts of a group count as the same."""

    def names(self, rollouts: Sequence[Trajectory]) -> np.ndarray:
        """A number for every rollout, equal where two are the same, int [S]."""
        raise NotImplementedError


class Signature(Sameness, name="signature"):
    """Rollouts with the same ``signature`` (or ``answer``) in `extra`, where a task or signal set one: rooms visited, for instance.
    Otherwise the same text, without spaces around it, or the same actions."""

    def names(self, rollouts: Sequence[Trajectory]) -> np.ndarray:
        return _numbered([signature(t) for t in rollouts])


class SameAnswer(Sameness, name="answer"):
    """Rollouts with the same extracted answer; those without one as ``signature`` does."""

    answer: ExtractName = "last_number"

    def names(self, rollouts: Sequence[Trajectory]) -> np.ndarray:
        found = [None if isinstance(t.content, Steps) else extract(self.answer, t.text) for t in rollouts]
        return _numbered([signature(t) if answer is None else ("", answer) for t, answer in zip(rollouts, found)])


class Cluster(Sameness, name="cluster"):
    """Rollouts that share at least `least` of their n-grams (`anypo.credit.alike`), as a stand-in for clusters of meaning: two worked
    answers with other words here and there are one. Where a task or signal set a signature, that decides."""

    least: float = Field(0.6, gt=0.0, le=1.0)

    def names(self, rollouts: Sequence[Trajectory]) -> np.ndarray:
        told = [isinstance(t.content, Steps) or any(key in t.extra for key in SIGNATURES) for t in rollouts]
        return _numbered([signature(t) for t in rollouts]) if all(told) else clusters(rollouts, self.least)


class SetScore(Components, name="set_score"):
    """Each rollout's mean score over all sets of `size` rollouts of its group that contain it, [S, 1].

    A set's score is (mean reward) x (distinct rollouts / `size`), so an unsuccessful but different rollout is credited too; `same`
    says which are not distinct. Centred by the group mean this is the marginal advantage of the set objective: averaging over *all*
    sets, where the published algorithm draws four, has the same expectation with less variance. Groups smaller than `size` are
    one set. Rewards are expected to be non-negative.
    """

    size: int = Field(4, ge=1)
    same: Sameness = Cluster()

    def matrix(self, batch: Batch) -> Tensor:
        rewards = batch.sequences["reward"].double()
        out = torch.zeros_like(rewards)
        for group in torch.unique(batch.group).tolist():
            members = (batch.group == group).nonzero().flatten()
            order = members[torch.argsort(batch.sequences["sample"][members], stable=True)]
            rollouts = [batch.trajectories[i] for i in order.tolist()] if batch.trajectories else []
            names = self.same.names(rollouts) if rollouts else np.arange(len(order))
            out[order] = torch.from_numpy(marginal_scores(rewards[order].numpy(), names, self.size))
        return out.to(batch.sequences["reward"].dtype).unsqueeze(1)


SIGNATURES = ("signature", "answer")
"""Entries of `Trajectory.extra` that say what a rollout is, the first one that is there."""


def signature(trajectory: Trajectory) -> Hashable:
    """What counts as "the same" rollout: its ``signature`` (or ``answer``) in `extra` when a task or signal set one, else the
    text, else the actions taken."""
    for key in SIGNATURES:
        if key in trajectory.extra:
            return str(trajectory.extra[key])
    if isinstance(trajectory.content, Steps):
        return tuple(decided(trajectory))
    return trajectory.text.strip() or trajectory.content.tokens[trajectory.content.actions].tobytes()


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Equal things the same number, int [S]."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def marginal_scores(rewards: np.ndarray, names: np.ndarray, size: int) -> np.ndarray:
    """Mean over all sets of `size` members containing i of (mean reward) (distinct / size), [G]."""
    n = len(rewards)
    size = min(size, n)
    if comb(n, size) > MOST_SETS:
        raise UserError(
            f"{comb(n, size)} sets of {size} out of {n} rollouts are too many; use smaller groups (control.samples) or another "
            "set size (credit.components.size)"
        )
    sets = np.array(list(combinations(range(n), size)))
    ordered = np.sort(np.unique(names, return_inverse=True)[1][sets], axis=1)
    distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(1)
    scores = rewards[sets].mean(1) * distinct / size
    total = np.zeros(n)
    np.add.at(total, sets, scores[:, None].repeat(size, 1))
    return total / (len(sets) * size / n)
