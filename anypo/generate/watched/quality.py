"""How likely a rollout is to be right, read off what the policy knows after its first tokens; and which of a group to keep."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.control.values import unanswered
from anypo.data.batch import Batch
from anypo.data.records import Tokens, Trajectory

HIDDEN = "hidden"
"""Key of `Trajectory.extra` under which a rollout keeps the state that it was judged by, where the engine showed it."""


class QualityHead:
    """A value head under a name of its own (column ``quality`` [N], a logit): what it says after the first `after` decisions of a
    rollout, at the decision that follows them; 0 elsewhere. It reads one state of every rollout, the one that the engine showed
    where there is one, and leaves the network below alone."""

    columns = frozenset({"quality"})

    def __init__(self, head: Any, after: int) -> None:
        self.head, self.after = head, after

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        if not names:
            return {}
        rows = (batch["position"] == self.after).nonzero().flatten()
        reached = [batch.trajectories[number] for number in batch.sequence[rows].tolist()]
        if not reached:
            return {"quality": torch.zeros(len(batch), device=batch.sequence.device)}
        read = Batch.pack([unanswered(t.prompt, first(t, self.after)) for t in reached])
        if all(t.extra.get(HIDDEN) is not None for t in reached):
            states = torch.from_numpy(np.stack([t.extra[HIDDEN] for t in reached]))
            read = read.with_rows(hidden=states)
        value = self.head.fill(read, ["value"], grad)["value"].to(batch.sequence.device)
        return {"quality": value.new_zeros(len(batch)).index_add(0, rows, value)}

    def parameters(self) -> Iterable[Any]:
        return self.head.parameters()  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        return self.head.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state)


def first(trajectory: Trajectory, decisions: int) -> np.ndarray:
    """The tokens that the decision after the first `decisions` of a rollout is taken behind, [L]."""
    content = trajectory.content
    assert isinstance(content, Tokens)
    return content.tokens[: content.actions[decisions]]


def bucket(logit: np.ndarray, buckets: int) -> np.ndarray:
    """Which of `buckets` equal parts of [0, 1] the probability of each logit lies in, int64 [n]."""
    p = 1 / (1 + np.exp(-np.clip(np.asarray(logit, dtype=np.float64), -60, 60)))
    return np.minimum((p * buckets).astype(np.int64), buckets - 1)


def posterior(counts: np.ndarray) -> np.ndarray:
    """P(right | bucket) by Bayes' rule from counts [2, B] (wrong, right) of rollouts by bucket, [B]:

        q(b) = pi P(b | 1) / (pi P(b | 1) + (1 - pi) P(b | 0)),   pi the share of right ones.

    One more rollout is counted in every bucket, right in the share pi, so that an empty one has q = pi (1/2 before anything is known).
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(1)
    pi = total[1] / total.sum() if total.sum() else 0.5
    prior = np.array([1 - pi, pi])[:, None]
    mass = prior * (counts + prior) / np.maximum(total[:, None] + prior * counts.shape[1], 1e-300)
    return mass[1] / mass.sum(0)  # type: ignore[no-any-return]


def survival(q: np.ndarray, keep: float, balance: float) -> np.ndarray:
    """Probability of every rollout of a group to be kept, [n], from the probabilities q [n] that it is right:

        v_i = min(1, c (balance q_i / m + (1 - balance) (1 - q_i) / (1 - m))),   m = mean q,

    c such that mean v = keep. With q of 0 and 1, c = keep while no v reaches 1, and of keep * n that are kept the share `balance` is
    right in expectation.
    """
    q = np.asarray(q, dtype=np.float64)
    if not len(q) or keep >= 1:
        return np.ones(len(q))
    m = np.clip(q.mean(), 1e-6, 1 - 1e-6)
    weight = balance * q / m + (1 - balance) * (1 - q) / (1 - m)
    order = np.sort(weight)[::-1]
    rest = order[::-1].cumsum()[::-1]  # of those that are not certain, were the k largest certain
    need = keep * len(q) - np.arange(len(q))
    scale = next(n / r for n, r, w in zip(need, rest, order) if n * w <= r * (1 + 1e-12))
    return np.minimum(1.0, scale * weight)


def ranked(right: np.ndarray, wrong: np.ndarray) -> float:
    """Share of the pairs of a right and a wrong rollout of which the right one has the larger score, ties one half (the area under
    the ROC curve); nan without pairs."""
    if not len(right) or not len(wrong):
        return float("nan")
    gap = np.asarray(right)[:, None] - np.asarray(wrong)[None]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


__all__ = ["HIDDEN", "QualityHead", "bucket", "first", "posterior", "ranked", "survival"]
