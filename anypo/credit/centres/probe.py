"""Baselines from small heads on the policy's own hidden states."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre
from anypo.credit.centres.groups import leave_one_out
from anypo.credit.centres.heads import empty_buffer, fit_head, remember, rollout_features
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.outlook import Outlook


class CrossProbe(Centre, name="cross_probe"):
    """A probe's value of the prompt, read from the *other* rollouts of the group (POISE, arXiv:2605.07579).

    The probe g maps features of one rollout to the expected reward of its prompt. The baseline of rollout i is the mean of
    g(z_j) over j != i: z_j is independent of rollout i given the prompt, so the gradient stays unbiased although z_j uses a
    whole trajectory. Targets are crossed alike (z_i is taught the mean reward of the others), and the fit used here is from
    earlier steps. Until `warmup` rollouts were seen the baseline is their running mean; a group of one always uses that mean.
    Rewards are expected in [0, 1].
    """

    components: int = Field(8, ge=1, description="principal components per feature block")
    ridge: float = Field(0.01, ge=0.0)
    buffer: int = Field(1024, ge=2)
    warmup: int = Field(64, ge=2, description="rollouts seen before the first fit")
    reads = frozenset({"hidden", "entropy_old"})

    def start(self) -> dict[str, Any]:
        return empty_buffer()

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        control = algorithm.control
        if control.samples < 2:
            return "the probe reads the prompt's other rollout, and there is one; set control.samples=2"
        rollouts = max(0, outlook.steps - 1) * control.prompts * control.samples
        if rollouts >= self.warmup:
            return None
        known = f"the probe is fitted from {self.warmup} rollouts on, and the last step knows {rollouts}"
        return f"{known}; set warmup={max(2, rollouts // 2)}"

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        memory = context.memory[self]
        blocks = rollout_features(batch)
        rewards = values.double().mean(1)
        running = memory["targets"].mean() if len(memory["targets"]) else torch.tensor(0.5, dtype=torch.float64)
        head = fit_head(memory, self.components, self.ridge, self.warmup)
        guess = head.predict([b.nan_to_num() for b in blocks]) if head else running.expand(len(rewards))
        alone = segments.count(batch.group, batch.n_groups)[batch.group] < 2
        crossed = torch.where(alone, running, leave_one_out(guess, batch.group, batch.n_groups))
        targets = leave_one_out(rewards, batch.group, batch.n_groups)
        _log_fit(guess[~alone], targets[~alone], running, context)
        paired = batch.select(~alone)
        remember(memory, [b[~alone] for b in blocks], targets[~alone], self.buffer, paired)
        return crossed.to(values.dtype).unsqueeze(1).expand_as(values)


def _log_fit(guess: Tensor, targets: Tensor, running: Tensor, context: Context) -> None:
    """How much of the crossed targets' spread around the running mean the probe explains on rollouts it has not seen."""
    spread = ((targets - running) ** 2).sum()
    if len(targets) and spread > 0:
        context.log("credit/probe_r2", 1 - ((targets - guess) ** 2).sum() / spread)
