"""Shaping by what a prompt's past rollouts achieved: shortest right answer, fewest tool calls. State in the prompt store."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.credit.reading import lengths, outcome, tool_calls
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.prompts import PromptStore, by_prompt, prompt_store
from anypo.outlook import Outlook


class HistoryLength(Shaping, name="history_length"):
    """A length reward relative to the shortest right answer seen so far of the prompt (HAPO, arXiv:2505.11225).

    With h that record and L the length, f = cos(min(pi/2 L / h, pi)): a right answer gains `weight` max(f, `floor`), a wrong
    one `weight` min(f, 0); without a record nothing. `form` ``linear`` is the published ablation (0 inside the tolerance
    band). All rollouts of a step are judged by the record before the step; then it moves: to the minimum, or with `mode`
    ``mean`` to the mean length of all right answers so far. A right answer that was cut off at the length limit sets no record: as
    published, a record of the full length is none.
    """

    weight: float = 1.0
    floor: float = Field(-0.7, ge=-1.0, le=0.0)
    mode: Literal["min", "mean"] = "min"
    form: Literal["cosine", "linear"] = "cosine"
    tolerance: float = Field(0.0, ge=0.0)
    outcome: str = ""
    right: float = 1.0

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return algorithm.control.seldom(outlook)  # type: ignore[no-any-return]

    def shape(self, batch: Batch, context: Context) -> Batch:
        store = prompt_store(context)
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        record = store.read("history/length", batch.sequences["prompt"], math.inf)
        bonus = length_bonus(lengths(batch).double(), record, right, self.floor, self.form, self.tolerance)
        self._learn(store, batch, right & ~batch.sequences["truncated"])
        reward = batch.sequences["reward"]
        return batch.with_sequences(reward=reward + self.weight * bonus.to(reward.dtype))

    def _learn(self, store: PromptStore, batch: Batch, right: Tensor) -> None:
        prompts, index = by_prompt(batch.sequences["prompt"][right])
        size = lengths(batch)[right].double()
        if self.mode == "min":
            best = segments.min(size, index, len(prompts)).tolist()
            old = store.table("history/length")
            store.write("history/length", prompts, [min(old.get(p, math.inf), b) for p, b in zip(prompts, best)])
            return
        seen = store.table("history/count")
        for prompt, total, count in zip(
            prompts,
            segments.sum(size, index, len(prompts)).tolist(),
            segments.count(index, len(prompts)).tolist(),
        ):
            before = seen.get(prompt, 0.0)
            mean = store.table("history/length").get(prompt, 0.0)
            store.write("history/length", [prompt], [(mean * before + total) / (before + count)])
            seen[prompt] = before + count


def length_bonus(size: Tensor, record: Tensor, right: Tensor, floor: float, form: str, tolerance: float) -> Tensor:
    """HAPO's length reward [S]; 0 where `record` is infinite. Shapes: all [S]."""
    relative = torch.where(torch.isfinite(record), size / record.clamp(min=1.0), torch.ones_like(size))
    if form == "cosine":
        f = torch.cos((math.pi / 2 * relative).clamp(max=math.pi))
        f = torch.where(relative == 1.0, torch.zeros_like(f), f)  # cos(pi/2) is 6e-17 in floating point
        return torch.where(right, f.clamp(min=floor), f.clamp(max=0.0))
    beyond = -(relative - (1 + tolerance)).clamp(min=0.0)
    short = torch.where(relative < 1, 1 - relative, beyond.clamp(min=floor))
    return torch.where(right, short, beyond.clamp(min=-1.0))


class ToolCost(Shaping, name="tool_cost"):
    """Multiplies what an answer earns by a tool-efficiency factor (OTC, arXiv:2504.14870): a wrong one never profits from calls, nor
    from saving them. An outcome below zero is left as it is, which a factor below 1 would make less bad.

    m is the number of tool calls. `form` ``group``: n is the fewest calls of any right answer of the prompt so far (this step
    included) and the factor is 1 for m = n = 0, cos(m pi / (2m + c)) for n = 0 < m, and sin(f pi / (2n)) with
    f = 2nm / (m + n) otherwise, largest at m = n. `form` ``absolute`` (no group): cos(m pi / (2m + c)).
    c is `smoothing`, in the paper the most turns there may be; parallel calls count each. `alpha` scales the outcome.
    """

    form: Literal["group", "absolute"] = "group"
    calls: str = "tool_calls"
    smoothing: float = Field(1.0, ge=1.0)
    alpha: float = Field(1.0, gt=0.0)
    outcome: str = ""
    right: float = 1.0

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.task is not None and self.calls in outlook.task.weights:
            return None
        if algorithm.generate.turns == 1:
            return "answers of one turn call no tools; set generate.turns=4 on a task that answers calls"
        if getattr(outlook.task, "turns", None) == 1:
            return f"task '{outlook.task.name}' ends with the first answer, so no tool is ever called; choose one that answers calls"
        return None

    def shape(self, batch: Batch, context: Context) -> Batch:
        calls = tool_calls(batch, self.calls).double()
        value = outcome(batch, self.outcome)
        if self.form == "absolute":
            factor = torch.cos(calls * math.pi / (2 * calls + self.smoothing))
        else:
            best = self._fewest(batch, calls, value >= self.right - 1e-9, context)
            factor = tool_factor(calls, best, self.smoothing)
        context.log("credit/tool_calls", calls.mean() if len(calls) else 0.0)
        factor = torch.where(value > 0, factor.to(value.dtype), torch.ones_like(value))
        shaped = value * (self.alpha * factor - 1)
        return batch.with_sequences(reward=batch.sequences["reward"] + shaped)

    def _fewest(self, batch: Batch, calls: Tensor, right: Tensor, context: Context) -> Tensor:
        store = prompt_store(context)
        prompts, index = by_prompt(batch.sequences["prompt"][right])
        here = segments.min(calls[right], index, len(prompts)).tolist()
        old = store.table("history/tool_calls")
        store.write("history/tool_calls", prompts, [min(old.get(p, math.inf), h) for p, h in zip(prompts, here)])
        return store.read("history/tool_calls", batch.sequences["prompt"], math.inf)


def tool_factor(calls: Tensor, best: Tensor, smoothing: float) -> Tensor:
    """OTC's factor for m = `calls` and n = `best` (infinite: unknown, factor 1), all [S]."""
    known = torch.where(torch.isfinite(best), best, torch.ones_like(best))
    none = torch.cos(calls * math.pi / (2 * calls + smoothing))
    balance = 2 * known * calls / (calls + known).clamp(min=1.0)
    some = torch.sin(balance * math.pi / (2 * known.clamp(min=1.0)))
    factor = torch.where(known == 0, none, some)
    return torch.where(torch.isfinite(best), factor, torch.ones_like(factor))
