"""Rewards of rollouts that were shown a guide."""

from __future__ import annotations

import torch
from pydantic import Field

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.data.batch import Batch
from anypo.data.records import GUIDED


class GuidedBonus(Shaping, name="guided_bonus"):
    """reward + bonus (1 - t / T) for a guided rollout whose reward is at least `right`, t the step of T: imitate the successes of help
    while help is needed (ICPO with bonus, arXiv:2510.26519). Guided are the rollouts of the tag ``guided``."""

    requires = frozenset({f"tag:{GUIDED}"})
    bonus: float = Field(1.0, ge=0.0)
    right: float = 1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        reward = batch.sequences["reward"]
        left = self.bonus * max(0.0, 1 - context.step / max(1, context.total))
        earned = batch.tagged(GUIDED) & (reward >= self.right - 1e-9)
        context.log("credit/guided_bonus", left)
        return batch.with_sequences(reward=torch.where(earned, reward + left, reward))
