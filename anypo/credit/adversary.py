"""An adversary that moves weight to the kinds of prompts on which the policy fails."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import GroupWeight
from anypo.credit.reading import outcome
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.outlook import Outlook

TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


class DifficultyAdversary(GroupWeight, name="difficulty_adversary"):
    """Exponential weights over bins of difficulty, group distributionally robust optimisation (Prompt-GDRO, arXiv:2601.19280).

    A prompt's bin is where the mean of its last `history` visits lies among `edges`, a visit being 1 where any of its rollouts was
    right (0 for a prompt never seen: the hardest bin); it leaves a bin only when that mean passes the edge by `inertia`. Of the bins
    of this batch the adversary's share is q = (1 - `explore`) softmax(`eta` S) + `explore` / bins, where S is the running mean, at
    pace `pace`, of a bin's failure rate. A rollout's weight is the q of its bin, rescaled to mean 1 over the batch, at most `most`.

    S and the bins are those before this batch, which teaches them afterwards. Means make a bin's S independent of how many prompts
    it has.
    """

    edges: tuple[float, ...] = TENTHS
    history: int = Field(50, ge=1)
    inertia: float = Field(0.03, ge=0.0, lt=0.5)
    eta: float = Field(0.65, ge=0.0)
    explore: float = Field(0.01, ge=0.0, le=1.0)
    pace: float = Field(0.12, gt=0.0, le=1.0)
    most: float = Field(15.0, ge=1.0)
    outcome: str = ""
    right: float = 1.0

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if not edges or list(edges) != sorted(set(edges)) or not (edges[0] > 0 and edges[-1] < 1):
            raise ValueError("edges are rising numbers between 0 and 1, at least one")
        return edges

    def start(self) -> dict[str, Any]:
        return {"visits": {}, "bins": {}, "scores": {}}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return algorithm.control.seldom(outlook)  # type: ignore[no-any-return]

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        memory = context.memory[self]
        right = (outcome(batch, self.outcome) >= self.right - 1e-9).to(values.dtype)
        if not len(right):
            return torch.ones(0, dtype=values.dtype)
        groups = torch.unique(batch.group).tolist()
        prompts = {g: int(batch.sequences["prompt"][batch.group == g][0]) for g in groups}
        bins = {g: self.bin(prompts[g], memory) for g in groups}
        own = torch.tensor([bins[g] for g in batch.group.tolist()])
        share = shares({b: memory["scores"].get(b, 0.0) for b in set(bins.values())}, self.eta, self.explore)
        weight = torch.tensor([share[b] for b in own.tolist()], dtype=values.dtype)
        weight = (weight / weight.mean()).clamp(max=self.most)
        context.log("credit/bins", len(share))
        context.log("credit/largest_weight", weight.max())
        self._learn(right, own, batch, {g: (prompts[g], bins[g]) for g in groups}, memory)
        return weight

    def bin(self, prompt: int, memory: dict[str, Any]) -> int:
        """The bin of a prompt, 0 the hardest."""
        visits = memory["visits"].get(prompt)
        mean = float(np.mean(visits)) if visits else 0.0
        found, before = bisect.bisect_right(self.edges, mean), memory["bins"].get(prompt)
        if before is None or found == before:
            return found
        passed = mean - self.edges[before] if found > before else self.edges[before - 1] - mean
        return found if passed >= self.inertia else int(before)

    def _learn(
        self, right: Tensor, own: Tensor, batch: Batch, groups: dict[int, tuple[int, int]], memory: dict[str, Any]
    ) -> None:
        for b in sorted(set(own.tolist())):
            failed = float(1 - right[own == b].mean())
            before = memory["scores"].get(b, failed)
            memory["scores"][b] = (1 - self.pace) * before + self.pace * failed
        solved = segments.max(right, batch.group, batch.n_groups)
        for g, (prompt, b) in groups.items():
            memory["bins"][prompt] = b
            memory["visits"][prompt] = [*memory["visits"].get(prompt, []), int(solved[g])][-self.history :]


def shares(scores: dict[int, float], eta: float, explore: float) -> dict[int, float]:
    """(1 - explore) softmax(eta S) + explore / n: what of max_q sum_b q_b S_b + H(q) / eta the adversary plays, by bin."""
    logits = eta * np.array([scores[b] for b in sorted(scores)])
    soft = np.exp(logits - logits.max())
    mixed = (1 - explore) * soft / soft.sum() + explore / len(soft)
    return dict(zip(sorted(scores), mixed.tolist()))
