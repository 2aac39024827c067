"""Small float64 batches with given lengths, groups and log ratios; and the gradient of an objective in `logp`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit import Credit
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.objective import Objective
from anypo.parts import Part


def make(
    lengths: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]] | None = None,
    drift: float = 0.3,
    seed: int = 0,
    version: int = 0,
) -> Batch:
    """Groups of sequences with the given lengths. ``logp`` differs from ``logp_old`` by noise of size `drift`, ``logp_old`` from
    ``logp_behaviour`` and ``logp_ref`` likewise; ``advantage`` is random unless `rewards` are given (then: left to credit)."""
    rng = np.random.default_rng(seed)
    groups = []
    for g, group in enumerate(lengths):
        trajectories = []
        for i, n in enumerate(group):
            tokens = np.concatenate([[7], rng.integers(0, 5, n)]).astype(np.int32)
            roles = np.array([CONTEXT] + [ACTION] * n, dtype=np.int8)
            trajectories.append(
                Trajectory(
                    prompt=g,
                    content=Tokens(tokens, roles),
                    logp=-rng.exponential(1.0, n) - 0.01,
                    version=np.full(n, version),
                    entropy=rng.exponential(1.0, n),
                    reward=float(rewards[g][i]) if rewards is not None else float(rng.integers(0, 2)),
                    turn=np.arange(n) // 2,
                    sample=i,
                )
            )
        groups.append(Group(g, tuple(trajectories)))
    batch = Batch.pack(groups, dtype=torch.float64)
    noise = lambda: torch.from_numpy(drift * rng.standard_normal(len(batch)))
    old = (batch["logp_behaviour"] + noise()).clamp(max=-1e-3)
    columns = {
        "logp_old": old,
        "logp_ref": (old + noise()).clamp(max=-1e-3),
        "logp": (old + noise()).clamp(max=-1e-3),
        "entropy_old": batch["entropy_behaviour"],
        "entropy": batch["entropy_behaviour"] + 0.1,
        "advantage": torch.from_numpy(rng.standard_normal(len(batch))),
    }
    return batch.with_rows(**columns)


def built(part: Part, step: int = 0) -> tuple[Part, Context]:
    """The part rebuilt with every sub-part its own object, and a context that knows it."""
    room = "objective" if isinstance(part, Objective) else "credit" if isinstance(part, Credit) else part.slot
    algorithm = Algorithm.from_dict(Algorithm(**{room: part}).dump())
    return getattr(algorithm, room), Context(step, 100, 0, Memory(algorithm))


def loss_and_gradient(objective: Objective, batch: Batch, column: str = "logp", step: int = 0) -> tuple[Tensor, Tensor]:
    """The loss and its derivative with respect to a column of `batch`."""
    part, ctx = built(objective, step)
    leaf = batch[column].detach().clone().requires_grad_()
    loss = part.loss(batch.with_rows(**{column: leaf}), ctx)
    (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
    return loss.detach(), torch.zeros_like(leaf) if gradient is None else gradient
