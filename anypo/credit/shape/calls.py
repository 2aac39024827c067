"""Advantages that depend on how tools were used."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shape
from anypo.credit.reading import lengths, outcome, tool_calls
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.outlook import Outlook


class EarlyCall(Shape, name="early_call"):
    """A right answer that calls a tool sooner than the other right answers of its group that call one gains, a later one loses (ASPO,
    arXiv:2508.19201, Eq. 2).

    b_i = `pull` (mean p - p_i) / mean L, cut off at +-`bound` |A|, added to every decision. p is the number of decisions up to the end
    of the first call, L the number of all decisions, both means over the group's members that are right and call a tool; nobody else
    changes. With `bound` below 1 the sign of A is kept, and where A is 0 nothing happens, so no bonus can outweigh being right, which
    one in the reward can once it is divided by its deviation.

    A call ends the policy's turn: p is where the first turn ends, and an answer of one turn, or with `calls` = 0, calls nothing.
    """

    pull: float = Field(2.0, ge=0.0)
    bound: float = Field(0.7, ge=0.0, lt=1.0)
    calls: str = "tool_calls"
    outcome: str = ""
    right: float = 1.0

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if algorithm.generate.turns == 1:
            return "answers of one turn call no tools; set generate.turns=4 on a task that answers calls"
        if getattr(outlook.task, "turns", None) == 1:
            return f"task '{outlook.task.name}' ends with the first answer, so no tool is ever called; choose one that answers calls"
        return None

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        first = first_turn(batch).to(advantages.dtype)
        length = lengths(batch).to(advantages.dtype)
        called = (first < length) & (tool_calls(batch, self.calls) > 0)
        eligible = called & (outcome(batch, self.outcome) >= self.right - 1e-9)
        mean = lambda values: segments.mean(values, batch.group, batch.n_groups, eligible.to(values.dtype))[batch.group]
        gain = self.pull * (mean(first) - first) / mean(length).clamp(min=1.0)
        gain = batch.spread(torch.where(eligible, gain, torch.zeros_like(gain)))
        most = self.bound * advantages.abs()
        context.log("credit/first_call", (first * called).sum() / called.sum().clamp(min=1))
        context.log("credit/calling", called.double().mean() if len(called) else 0.0)
        return advantages + torch.minimum(torch.maximum(gain, -most), most)


def first_turn(batch: Batch) -> Tensor:
    """Decisions in the first turn of every trajectory, [S]."""
    turn = batch["turn"].double()
    begun = segments.min(turn, batch.sequence, batch.n_sequences)
    return segments.sum((turn == batch.spread(begun)).double(), batch.sequence, batch.n_sequences)
