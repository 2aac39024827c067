"""Small records for the tests of the run folder."""

from __future__ import annotations

import numpy as np
import torch

from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, OBSERVATION, Group, Steps, Tokens, Trajectory
from anypo.tasks.base import Problem


def letters(tokens: np.ndarray) -> str:
    return "".join(chr(token) for token in tokens)


def language(prompt: int, text: str, *, reward: float = 1.0, sample: int = 0, between: str = "") -> Trajectory:
    """A rollout of one character a token: the prompt 'Q:', the text, and (with `between`) a second turn after it."""
    pieces = [("Q:", CONTEXT), (text, ACTION)] + ([(between, OBSERVATION), ("ok", ACTION)] if between else [])
    tokens = np.array([ord(c) for piece, _ in pieces for c in piece], dtype=np.int32)
    roles = np.array([role for piece, role in pieces for _ in piece], dtype=np.int8)
    n = int((roles == ACTION).sum())
    return Trajectory(
        prompt,
        Tokens(tokens, roles),
        -0.125 * np.arange(1, n + 1),
        np.arange(3, 3 + n),
        {"correct": reward, "format": 0.5},
        reward,
        entropy=0.25 * np.ones(n),
        text=text,
        sample=sample,
        extra={"failed": ""},
    )


def control(prompt: int) -> Trajectory:
    return Trajectory(
        prompt, Steps(np.zeros((4, 2)), np.zeros((4, 1)), np.zeros(2)), np.zeros(4), np.zeros(4, dtype=np.int64)
    )


def group(prompt: int, texts: list[str], step: int = 1) -> Group:
    problem = Problem(prompt, ({"role": "user", "content": f"question {prompt}"},), f"answer {prompt}")
    trajectories = tuple(language(prompt, t, reward=float(i % 2), sample=i) for i, t in enumerate(texts))
    return Group(prompt, trajectories, problem, step)


def credited(groups: list[Group]) -> Batch:
    """A batch whose advantage is 10 * sequence + position in every row, and 100 + sequence for the sequence."""
    batch = Batch.pack(groups)
    rows = 10.0 * batch.sequence + batch["position"]
    return batch.with_rows(advantage=rows).with_sequences(advantage=100.0 + torch.arange(batch.n_sequences))
