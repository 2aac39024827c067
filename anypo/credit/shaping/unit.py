"""Rewards of a batch brought to one size."""

from __future__ import annotations

import torch

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.credit.critics.gae import row_rewards
from anypo.data.batch import Batch


class UnitRewards(Shaping, name="unit_rewards"):
    """Every decision's reward r_t, the outcome's at the last, becomes mean + (r_t - mean) / sqrt(var + 1e-8), with mean and variance
    over all decisions of the batch: deviations of size one around the mean that was (reward whitening of RLHF, arXiv:1909.08593). For
    what reads rewards by decision, such as a critic."""

    def shape(self, batch: Batch, context: Context) -> Batch:
        rewards = row_rewards(batch)
        if len(rewards) < 2:
            return batch
        mean = rewards.mean()
        unit = mean + (rewards - mean) * torch.rsqrt(rewards.var(correction=0) + 1e-8)
        return batch.with_rows(step_reward=unit).with_sequences(reward=batch.sequence_sum(unit))
