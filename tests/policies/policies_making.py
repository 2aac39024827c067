"""Rollouts with made-up tokens, and the plainest computation of their columns."""

from __future__ import annotations

import numpy as np
import torch

from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, OBSERVATION, Tokens, Trajectory


def rollout(rng: np.random.Generator, shape: list[int], vocabulary: int, temperature: float = 1.0) -> Trajectory:
    """A conversation of segments with the given lengths: prompt, action, observation, action, ..."""
    kinds = [CONTEXT, *([ACTION, OBSERVATION] * len(shape))][: len(shape)]
    roles = np.repeat(np.array(kinds, dtype=np.int8), shape)
    tokens = rng.integers(0, vocabulary, len(roles)).astype(np.int32)
    n = int((roles == ACTION).sum())
    return Trajectory(
        prompt=int(rng.integers(100)),
        content=Tokens(tokens, roles),
        logp=rng.normal(size=n),
        version=np.zeros(n, dtype=np.int64),
        log_mass=-rng.random(n),
        temperature=temperature,
    )


def batch_of(trajectories: list[Trajectory], dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.of(trajectories, [0] * len(trajectories), 1, dtype)


def naive(model, batch: Batch) -> dict[str, torch.Tensor]:
    """Columns one trajectory at a time, from the full logits of the model's own forward pass."""
    logp, entropy = [], []
    for trajectory in batch.trajectories:
        tokens = torch.from_numpy(trajectory.content.tokens).long()
        logits = model(input_ids=tokens[None]).logits[0]
        for place in trajectory.content.actions.tolist():
            log_probability = torch.log_softmax(logits[place - 1] / trajectory.temperature, -1)
            logp.append(log_probability[tokens[place]])
            entropy.append(-(log_probability.exp() * log_probability).sum())
    mass = torch.cat([torch.from_numpy(t.log_mass) for t in batch.trajectories])
    return {"logp": torch.stack(logp) - mass, "entropy": torch.stack(entropy)}
