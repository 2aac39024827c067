"""Rewards of rollouts that were shown a guide."""

from __future__ import annotations

import torch
from pydantic import Field

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.data.batch import Batch
from anypo.data.records import GUIDED, RIGHT


class GuidedBonus(Shaping, name="guided_bonus"):
    """reward + bonus (1 - t / T) for a guided rollout that is right by the task's outcome, t the step of T: imitate the successes of
    help while help is needed (ICPO with bonus, arXiv:2510.26519). Guided are the rollouts of the tag ``guided``."""

    requires = frozenset({f"tag:{GUIDED}"})
    bonus: float = Field(1.0, ge=0.0)

    def shape(self, batch: Batch, context: Context) -> Batch:
        reward = batch.sequences["reward"]
        left = self.bonus * max(0.0, 1 - context.step / max(1, context.total))
        right = torch.tensor([bool(t.extra.get(RIGHT)) for t in batch.trajectories], dtype=torch.bool)
        earned = batch.tagged(GUIDED) & right
        context.log("credit/guided_bonus", left)
        return batch.with_sequences(reward=torch.where(earned, reward + left, reward))
