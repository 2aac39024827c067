"""A KL penalty whose threshold is steered by how the reward develops, and whose force grows as the entropy runs out (SAFE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.numerics import k1, k2
from anypo.objective.base import Aggregate, Regulariser
from anypo.outlook import Outlook, length, moment


class KLControl(Regulariser, name="kl_control"):
    """0.1 (kl_s - thr)^2 gate while the smoothed KL to the reference kl_s exceeds a moving threshold thr, else 0, with
    gate = max( 1/2, floor / (H + 0.1) ) and H the entropy, nats per token, of what was sampled: of the step's starting policy, a mean
    over responses of their means, so that no pass over the batch moves it (SAFE; github.com/ryyzn9/SAFE).

    Once per optimiser step: kl_s <- 0.9 kl_s + 0.1 mean(log pi - log pi_ref); the reward's running mean m <- 0.95 m + 0.05 R;
    error e = (m - m_prev) - 0.001; u = kp e + ki I + kd (e - e_prev) with I the sum of errors, kept in [-1, 1];
    thr = clip( (threshold + u) * phase, 0.1, 0.6 ), see `phase`.

    mode: ``gradient`` adds beta KL(theta), beta = sg[ d penalty / d kl_s ], so that the penalty acts. The KL is the k2 estimate,
    whose gradient is that of KL(pi || ref); the mean log-ratio's own gradient has expectation zero. ``inert`` adds the
    penalty as a number: it changes the logged loss and nothing else, as in the released script.
    window: rewards (one per optimiser step) in each of the two stretches whose comparison tells the phase; below 1 a share of the
    run's steps, at least two.
    """

    mode: Literal["gradient", "inert"] = "gradient"
    threshold: float = 0.3
    floor: float = Field(
        2.0, ge=0.0, description="entropy at which the force is about 1, nats; it is half of that from twice as much on"
    )
    kp: float = Field(0.3, ge=0.0)
    ki: float = Field(0.01, ge=0.0)
    kd: float = Field(0.05, ge=0.0)
    window: float = Field(50, gt=0)
    reads = frozenset({"logp", "logp_ref", "entropy_old"})
    requires = frozenset({"reference"})

    def start(self) -> dict[str, Any]:
        return {"kl": 0.0, "mean": None, "integral": 0.0, "error": 0.0, "rewards": []}

    def penalty(self, batch: Batch, aggregate: Aggregate, context: Context) -> Tensor:
        memory = context.memory[self]
        gap = batch["logp"] - batch["logp_ref"]
        reward = batch.sequences["reward"]
        counted = batch.sequence_sum(torch.ones_like(batch.weight)) > 0
        sampled = batch.sequence_mean(batch["entropy_old"].detach())[counted]
        entropy = float(sampled.mean()) if len(sampled) else 0.0
        limit = self.advance(
            memory,
            float(batch.row_mean(k1(gap.detach()))),
            float(reward.mean()) if len(reward) else 0.0,
            max(2, context.moment(self.window)),
        )
        excess = max(0.0, memory["kl"] - limit)
        gate = max(0.5, self.floor / (entropy + 0.1))
        context.log("objective/kl_threshold", limit)
        context.log("objective/kl_smooth", memory["kl"])
        context.log("objective/kl_penalty", 0.1 * excess**2 * gate)
        if self.mode == "inert":
            return batch["logp"].sum() * 0 + 0.1 * excess**2 * gate
        return 0.2 * excess * gate * batch.row_mean(k2(gap))

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        seen, wanted = outlook.steps * (algorithm.update.turns() or 1), max(2, moment(self.window, outlook.steps))
        if seen >= 2 * wanted:
            return None
        path = next(path for path, part in algorithm.walk() if part is self)
        return (
            f"its phases: {seen} optimiser steps are planned, and it compares two stretches of {wanted}; set {path}.window=0.2, as "
            "many rewards as a fifth of the run has steps"
        )

    def regime(self) -> tuple[str, ...]:
        return (f"phases of the KL threshold from two stretches of rewards, {length(self.window)} each",)

    def advance(self, memory: dict[str, Any], kl: float, reward: float, window: int) -> float:
        """Feed one optimiser step's mean log-ratio and mean reward to the controller's memory, which looks at two stretches of
        `window` rewards; the threshold for this step. What is not finite is ignored."""
        if math.isfinite(kl):
            memory["kl"] = 0.9 * memory["kl"] + 0.1 * kl
        if not math.isfinite(reward):
            reward = memory["rewards"][-1] if memory["rewards"] else 0.0
        memory["rewards"] = [*memory["rewards"], reward][-2 * window :]
        return max(0.1, min(0.6, (self.threshold + self._pid(memory, reward)) * phase(memory["rewards"], window)))

    def _pid(self, memory: dict[str, Any], reward: float) -> float:
        before = memory["mean"]
        memory["mean"] = reward if before is None else 0.95 * before + 0.05 * reward
        if before is None:
            return 0.0
        error = memory["mean"] - before - 0.001
        memory["integral"] = max(-1.0, min(1.0, memory["integral"] + error))
        output = self.kp * error + self.ki * memory["integral"] + self.kd * (error - memory["error"])
        memory["error"] = error
        return float(output)


def phase(rewards: Sequence[float], window: int) -> float:
    """How loose the threshold is, from the mean rewards so far: 1.5 warming up (fewer than `window`), 1.2 climbing (the last `window`
    average more than 0.01 above those before them, where these are known), 1.0 converged (the last `window` vary by less than 0.02
    around more than 0.7), else 0.8, a plateau."""
    if len(rewards) < window:
        return 1.5
    recent, earlier = rewards[-window:], rewards[-2 * window : -window]
    if len(earlier) == window and np.mean(recent) > np.mean(earlier) + 0.01:
        return 1.2
    return 1.0 if np.std(recent) < 0.02 and np.mean(recent) > 0.7 else 0.8
