"""Batches and contexts for credit tests, from plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from anypo.context import Context, Memory
from anypo.credit.base import Credit
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Tokens, Trajectory
from anypo.parts import Part


def rollout(reward: float, length: int = 1, prompt: int = 0, sample: int = 0, **fields: Any) -> Trajectory:
    tokens = np.concatenate([np.array([prompt % 97, prompt % 89, 5]), np.arange(length) + sample])
    roles = np.array([CONTEXT] * 3 + [ACTION] * length)
    return Trajectory(
        **(
            {
                "prompt": prompt,
                "content": Tokens(tokens, roles),
                "logp": np.full(length, -0.5),
                "version": np.zeros(length, dtype=np.int64),
                "reward": reward,
                "sample": sample,
                "text": f"text {sample}",
            }
            | fields
        )
    )


def batch_of(
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]] | None = None,
    components: Mapping[str, Sequence[Sequence[float]]] | None = None,
    prompts: Sequence[int] | None = None,
    **fields: Sequence[Sequence[Any]],
) -> Batch:
    """One group per inner list, float64. `fields` are further trajectory fields, one value per rollout."""
    trajectories, ids = [], []
    for g, group in enumerate(rewards):
        for i, reward in enumerate(group):
            extra = {name: values[g][i] for name, values in fields.items()}
            named = {name: values[g][i] for name, values in (components or {}).items()}
            prompt = prompts[g] if prompts else g
            length = lengths[g][i] if lengths else 1
            trajectories.append(rollout(reward, length, prompt, i, rewards=named, **extra))
            ids.append(g)
    return Batch.of(trajectories, ids, len(rewards), torch.float64)


def context_for(part: Part, step: int = 0, total: int = 10, memory: Memory | None = None) -> Context:
    return Context(step, total, 0, memory or Memory(part))


def advantages(credit: Credit, batch: Batch, context: Context | None = None) -> list[float]:
    """Advantage of every sequence (of its first decision)."""
    out = credit.assign(batch, context or context_for(credit))
    return out["advantage"][out["position"] == 0].tolist()
