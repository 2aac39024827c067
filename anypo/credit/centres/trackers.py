"""Persistent baselines: a Beta belief about every prompt's success rate, with forgetting as the policy drifts.

One rollout per prompt is enough: the baseline comes from earlier visits. State in the prompt store (tables ``beta/a``,
``beta/b``), so control parts can sample prompts by the same belief.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre, Shaping
from anypo.credit.centres.groups import leave_one_out
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.prompts import PromptStore, by_prompt, prompt_store
from anypo.data.records import DRIFT
from anypo.outlook import Outlook
from anypo.parts import Part


class Forgetting(Part, slot="forgetting"):
    """How much of the old belief survives one visit."""

    def retention(self, prompts: list[int], batch: Batch, context: Context) -> Tensor:
        """Factor rho in (0, 1] on the evidence for each of `prompts`, float64 [P]."""
        raise NotImplementedError


class ConstantForgetting(Forgetting, name="constant"):
    """The same factor always; the evidence converges to 1 / (1 - `rho`) rollouts."""

    rho: float = Field(0.96, gt=0.0, le=1.0)

    def retention(self, prompts: list[int], batch: Batch, context: Context) -> Tensor:
        return torch.full((len(prompts),), self.rho, dtype=torch.float64)


class DriftForgetting(Forgetting, name="drift"):
    """rho = clamp(2 ** (-D / `half`), `low`, `high`), D how far the policy moved on the prompt's previous response: mean
    absolute change of its token log-probabilities, 0 on a first visit (SPO, arXiv:2509.13232). Needs the stored responses
    (``replay=last_response``) and `MeasureDrift`."""

    half: float = Field(0.06, gt=0.0)
    low: float = Field(0.875, gt=0.0, le=1.0)
    high: float = Field(0.96, gt=0.0, le=1.0)
    requires = frozenset({"drift"})

    def retention(self, prompts: list[int], batch: Batch, context: Context) -> Tensor:
        drift = prompt_store(context).read("drift", torch.tensor(prompts, dtype=torch.int64), 0.0)
        return (2 ** (-drift / self.half)).clamp(self.low, self.high)


class KLForgetting(Forgetting, name="kl"):
    """One factor for all prompts, from the mean KL divergence of the policy from its reference over the last `window` steps:
    rho = high - min(KL / `target`, 1) (high - low) (MSSR, arXiv:2512.18215, in its monotone reading: the more drift, the
    more is forgotten). KL by the non-negative estimator exp(d) - 1 - d with d = logp_ref - logp_old, nats per token."""

    low: float = Field(0.875, gt=0.0, le=1.0)
    high: float = Field(0.96, gt=0.0, le=1.0)
    target: float = Field(0.01, gt=0.0)
    window: int = Field(20, ge=1)
    reads = frozenset({"logp_old", "logp_ref"})
    requires = frozenset({"reference"})

    def start(self) -> dict[str, list[float]]:
        return {"kl": []}

    def retention(self, prompts: list[int], batch: Batch, context: Context) -> Tensor:
        history: list[float] = context.memory[self]["kl"]
        gap = (batch["logp_ref"] - batch["logp_old"]).double().clamp(-20.0, 20.0)
        history.append(float(batch.row_mean(gap.exp() - 1 - gap)))
        del history[: -self.window]
        tau = min(sum(history) / len(history) / self.target, 1.0)
        return torch.full((len(prompts),), self.high - tau * (self.high - self.low), dtype=torch.float64)


class BetaTracker(Centre, name="beta_tracker"):
    """The mean a / (a + b) of a persistent Beta belief about the prompt's reward, as it was before this visit, so that it does
    not depend on the action (SPO, arXiv:2509.13232).

    After the visit: a <- rho a + sum r, b <- rho b + sum (1 - r), over the visit's rollouts, r rescaled to [0, 1] by `low` and
    `high`. A prompt's first visit has the prior 1/2; with several rollouts it uses their leave-one-out mean instead, and
    starts the belief at W (s + 1/2) / (n + 1), W (n - s + 1/2) / (n + 1) with W = 1 / (1 - `evidence`), as an offline
    initialisation from n rollouts would. One belief per component column.
    """

    forgetting: Forgetting = DriftForgetting()
    evidence: float = Field(0.875, ge=0.0, lt=1.0, description="initial evidence is 1 / (1 - this)")
    low: float = 0.0
    high: float = 1.0

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return algorithm.control.seldom(outlook)  # type: ignore[no-any-return]

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        store = prompt_store(context)
        prompts, index = by_prompt(batch.sequences["prompt"])
        rate = ((values.double() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        rho = self.forgetting.retention(prompts, batch, context)
        means = torch.stack([self._visit(store, k, prompts, index, rate[:, k], rho) for k in range(values.shape[1])], 1)
        baseline = (self.low + (self.high - self.low) * means).to(values.dtype)
        error = (baseline - values)[:, 0]
        context.log("credit/tracker_error", (error**2).mean().sqrt() if len(error) else 0.0)
        context.log("credit/retention", rho.mean() if len(rho) else 1.0)
        return baseline

    def _visit(
        self, store: PromptStore, column: int, prompts: list[int], index: Tensor, rate: Tensor, rho: Tensor
    ) -> Tensor:
        """Baseline of every sequence before the visit [S]; the belief moves afterwards."""
        suffix = f"/{column}" if column else ""
        ids = torch.tensor(prompts, dtype=torch.int64)
        a, b = store.read(f"beta/a{suffix}", ids, 0.5), store.read(f"beta/b{suffix}", ids, 0.5)
        first = ~store.known(f"beta/a{suffix}", ids)
        n, s = segments.count(index, len(prompts), torch.float64), segments.sum(rate, index, len(prompts))
        fresh = first & (n > 1)
        before = torch.where(fresh[index], leave_one_out(rate, index, len(prompts)), (a / (a + b))[index])
        begun_a, begun_b = begun(n, s, self.evidence)
        after_a = torch.where(fresh, begun_a, rho * a + s)
        after_b = torch.where(fresh, begun_b, rho * b + n - s)
        store.write(f"beta/a{suffix}", prompts, after_a.tolist())
        store.write(f"beta/b{suffix}", prompts, after_b.tolist())
        return before


def begun(n: Tensor, s: Tensor, evidence: float) -> tuple[Tensor, Tensor]:
    """The belief (a, b) that n rollouts with s successes start: W (s + 1/2) / (n + 1) and W (n - s + 1/2) / (n + 1), with
    W = 1 / (1 - `evidence`). Shapes: all [P]."""
    weight = 1 / (1 - evidence)
    return weight * (s + 0.5) / (n + 1), weight * (n - s + 0.5) / (n + 1)


class StartBeliefs(Shaping, name="start_beliefs"):
    """Takes groups of several rollouts of prompts without a belief out of the batch: they start it, as the offline rollouts of the
    initial policy do in SPO's release (eight of every problem), and are not trained on. The fields are those of `BetaTracker`."""

    evidence: float = Field(0.875, ge=0.0, lt=1.0)
    low: float = 0.0
    high: float = 1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        store, prompt = prompt_store(context), batch.sequences["prompt"]
        several = segments.count(batch.group, batch.n_groups)[batch.group] > 1
        first = several & ~store.known("beta/a", prompt)
        prompts, index = by_prompt(prompt[first])
        rate = ((batch.sequences["reward"][first].double() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        n, s = segments.count(index, len(prompts), torch.float64), segments.sum(rate, index, len(prompts))
        for table, values in zip(("beta/a", "beta/b"), begun(n, s, self.evidence)):
            store.write(table, prompts, values.tolist())
        context.log("credit/beliefs_begun", len(prompts))
        return batch.select(~first)


class MeasureDrift(Shaping, name="measure_drift"):
    """Takes the stored rollouts out of the batch and records, per prompt, the mean absolute difference between their
    log-probabilities then and now (table ``drift``)."""

    reads = frozenset({"logp_old"})
    requires = frozenset({"stored_responses"})
    provides = frozenset({"drift"})

    def shape(self, batch: Batch, context: Context) -> Batch:
        stored = torch.tensor([t.guidance == DRIFT for t in batch.trajectories], dtype=torch.bool)
        if not bool(stored.any()):
            return batch
        old = batch.select(stored)
        change = old.sequence_mean((old["logp_behaviour"] - old["logp_old"]).abs()).double()
        prompts, index = by_prompt(old.sequences["prompt"])
        drift = segments.mean(change, index, len(prompts))
        prompt_store(context).write("drift", prompts, drift.tolist())
        context.log("credit/drift", drift.mean())
        return batch.select(~stored)
