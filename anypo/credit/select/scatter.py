"""Cutting trajectories into decisions, once credit knows what each was worth."""

from __future__ import annotations

import torch

from anypo.context import Context
from anypo.credit.base import Select
from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.errors import UserError


class Scatter(Select, name="scatter"):
    """Every decision becomes a trajectory and a group of its own, so that minibatches mix decisions from everywhere: how PPO is
    trained in control (arXiv:1707.06347), where a batch is a few long stretches of experience.

    Only for trajectories of `Steps`; what belongs to a whole trajectory (a sequence ratio, a mean over rollouts) means the
    single decision afterwards.
    """

    def select(self, batch: Batch, context: Context) -> Batch:
        order = torch.argsort(batch.sequence, stable=True)
        rows = {name: column[order] for name, column in batch.rows.items()}
        owner, ids = rows["sequence"], torch.arange(len(order))
        sequences = {name: column[owner] for name, column in batch.sequences.items()}
        ones = torch.ones_like(ids)
        pieces = tuple(_decision(batch.trajectories[s], k) for s, k in zip(owner.tolist(), rows["position"].tolist()))
        return Batch(
            {**rows, "sequence": ids, "position": torch.zeros_like(ids)},
            {**sequences, "group": ids, "length": ones, "parent": -ones},
            len(ids),
            pieces,
            tuple(batch.problems[g] for g in batch.group[owner].tolist()) if batch.problems else (),
        )


def _decision(whole: Trajectory, k: int) -> Trajectory:
    """Decision k of a trajectory as a trajectory."""
    content = whole.content
    if not isinstance(content, Steps):
        raise UserError(
            "only trajectories of observations and actions can be cut into decisions; choose a control task"
        )
    one = slice(k, k + 1)
    return Trajectory(
        prompt=whole.prompt,
        content=Steps(content.observations[one], content.actions[one], content.last, content.terminated),
        logp=whole.logp[one],
        version=whole.version[one],
        reward=whole.reward,
    )
