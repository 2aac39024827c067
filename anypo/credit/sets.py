"""Credit for sets of rollouts: good and different together (polychromic objectives, arXiv:2509.25424)."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import combinations
from math import comb

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.credit.base import Components
from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.errors import UserError

MOST_SETS = 20_000


class SetScore(Components, name="set_score"):
    """Each rollout's mean score over all sets of `size` rollouts of its group that contain it, [S, 1].

    A set's score is (mean reward) x (distinct rollouts / `size`), so an unsuccessful but different rollout is credited too.
    Centred by the group mean this is the marginal advantage of the set objective: averaging over *all* sets, where the
    published algorithm draws four, has the same expectation with less variance. Groups smaller than `size` are one set.
    Rewards are expected to be non-negative.
    """

    size: int = Field(4, ge=1)

    def matrix(self, batch: Batch) -> Tensor:
        rewards = batch.sequences["reward"].double()
        signatures = np.array([hash(signature(t)) for t in batch.trajectories], dtype=np.int64)
        out = torch.zeros_like(rewards)
        for group in torch.unique(batch.group).tolist():
            members = (batch.group == group).nonzero().flatten()
            names = signatures[members.numpy()] if len(signatures) else np.arange(len(members))
            out[members] = torch.from_numpy(marginal_scores(rewards[members].numpy(), names, self.size))
        return out.to(batch.sequences["reward"].dtype).unsqueeze(1)


def signature(trajectory: Trajectory) -> Hashable:
    """What counts as "the same" rollout: its ``signature`` (or ``answer``) in `extra` when a task or signal set one, else the
    text, else the actions taken."""
    for key in ("signature", "answer"):
        if key in trajectory.extra:
            return str(trajectory.extra[key])
    if isinstance(trajectory.content, Steps):
        return np.round(np.asarray(trajectory.content.actions, dtype=np.float64), 3).tobytes()
    return trajectory.text.strip() or trajectory.content.tokens[trajectory.content.actions].tobytes()


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
