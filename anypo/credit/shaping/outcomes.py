"""Shaping: rewards are changed before any baseline sees them.

Fields named `outcome` name the reward component that says right or wrong; empty means the scalar reward itself.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Shaping
from anypo.credit.reading import lengths, optional, outcome
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.outlook import Outlook


class Rescale(Shaping, name="rescale"):
    """reward <- (reward - low) / (high - low)."""

    low: float = 0.0
    high: float = 1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        span = self.high - self.low
        return batch.with_sequences(reward=(batch.sequences["reward"] - self.low) / (span if span else 1.0))


class Conditioned(Shaping, name="conditioned"):
    """A reward component counts only where another one reaches `at_least` (conditioned rewards of GDPO, arXiv:2601.05242):
    an easy component, such as a length bonus, cannot be earned without the hard one."""

    component: str
    on: str
    at_least: float = 1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        earned = outcome(batch, self.component)
        allowed = outcome(batch, self.on) >= self.at_least - 1e-9
        return batch.with_sequences(
            **{f"reward/{self.component}": torch.where(allowed, earned, torch.zeros_like(earned))}
        )


class Overlong(Shaping, name="overlong"):
    """Soft punishment of overlong answers (DAPO, arXiv:2503.14476): reward + 0 up to `limit` - `buffer` decisions, then falling
    linearly to -`penalty` at `limit` and beyond."""

    limit: int = Field(20480, ge=1)
    buffer: int = Field(4096, ge=1)
    penalty: float = Field(1.0, ge=0.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        longest = getattr(algorithm.generate, "max_new", None)
        if longest is None or longest * getattr(algorithm.generate, "turns", 1) > self.limit - self.buffer:
            return None
        longest *= getattr(algorithm.generate, "turns", 1)
        return (
            f"no answer is longer than {longest} tokens, and punishment begins after {self.limit - self.buffer}; "
            f"set limit={longest} and buffer={max(1, longest // 5)}, or a larger generate.max_new"
        )

    def shape(self, batch: Batch, context: Context) -> Batch:
        over = (lengths(batch) - (self.limit - self.buffer)) / self.buffer
        return batch.with_sequences(reward=batch.sequences["reward"] - self.penalty * over.clamp(0.0, 1.0))


class Unended(Shaping, name="unended"):
    """An answer without an end is worth `value`, whatever it says (RLHF on summaries, arXiv:2403.17031)."""

    value: float = -1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        reward = batch.sequences["reward"]
        return batch.with_sequences(
            reward=torch.where(batch.sequences["truncated"], torch.full_like(reward, self.value), reward)
        )


class Flawed(Shaping, name="flawed"):
    """Three levels of reward (FAPO, arXiv:2510.22543): right +1, wrong -1, right by a flawed argument 1 - `penalty`.

    `component` is 1 where a detector found a wrong step; it counts on right answers only, and an unreadable verdict (no
    component) counts as not flawed. With `penalty` 1 a flawed answer has a positive advantage in its group exactly while
    failures outnumber clean solutions, so the penalty anneals itself.
    """

    component: str = "flawed"
    penalty: float = Field(1.0, ge=0.0)
    outcome: str = ""
    right: float = Field(1.0, description="outcome from which an answer counts as right")

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        written = (
            getattr(algorithm.filter, "signals", ()) or outlook.task is None or self.component in outlook.task.weights
        )
        if written:
            return None
        return f"nobody writes the component '{self.component}'; set filter.signals='[{{part: equation_check}}]'"

    def shape(self, batch: Batch, context: Context) -> Batch:
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        flawed = right & (optional(batch, self.component) > 0.5)
        reward = batch.sequences["reward"]
        signed = torch.where(right, torch.ones_like(reward), -torch.ones_like(reward))
        context.log("credit/flawed_share", flawed.float().sum() / right.float().sum().clamp(min=1))
        return batch.with_sequences(reward=signed - self.penalty * flawed.to(reward.dtype))


class DifficultyLength(Shaping, name="difficulty_length"):
    """Right answers of hard prompts are paid for length, of easy prompts for brevity (the stronger variant of ADORA,
    arXiv:2602.10019).

    With l in [0, 1] the length of a right answer between the shortest and longest right one of its group, its reward gains
    `beta` (2 l - 1) when fewer than `share` of the group are right and loses it when at least 1 - `share` are; only in groups
    whose longest right answer is longer than the mean wrong one. As in the release a wrong answer that was cut off counts for
    no mean, and a group without others is shaped: where all are right the shorter ones are paid more. Right answers of one
    length stay as they are (the release moves them together).
    """

    beta: float = Field(0.5, ge=0.0)
    share: float = Field(0.5, ge=0.0, le=1.0)
    outcome: str = ""
    right: float = 1.0

    def shape(self, batch: Batch, context: Context) -> Batch:
        right = outcome(batch, self.outcome) >= self.right - 1e-9
        longest, mean_wrong = length_direction(batch, right, finished=True)
        low = -segments.max(torch.where(right, -lengths(batch), -torch.inf), batch.group, batch.n_groups)
        span = (longest - low)[batch.group]
        place = torch.where(right & (span > 0), (lengths(batch) - low[batch.group]) / span.clamp(min=1.0), 0.5)
        rate = segments.mean(right.to(span.dtype), batch.group, batch.n_groups)[batch.group]
        sign = (rate < self.share).to(span.dtype) - ((rate >= 1 - self.share) & (rate >= self.share)).to(span.dtype)
        applies = right & (longest > mean_wrong)[batch.group]
        return batch.with_sequences(reward=batch.sequences["reward"] + applies * sign * self.beta * (2 * place - 1))


class ModeCost(Shaping, name="mode_cost"):
    """Multiplies the reward of an expensive answer mode on prompts the cheap mode already solves (A2FM, arXiv:2510.12838).

    p is the success rate of the cheap mode in the group. Where p reaches `easy`, every other mode's reward is multiplied by
    1 - p ** `power`. The modes are told apart by the reward component `component`: 0 for the cheap one, 1 and up for others; an
    answer that says none (below 0) has not kept to the format, the third factor of the reward, and earns 0.
    """

    component: str = "mode"
    easy: float = Field(0.7, ge=0.0)
    power: float = Field(2.0, gt=0.0)
    outcome: str = ""

    def shape(self, batch: Batch, context: Context) -> Batch:
        mode = optional(batch, self.component)
        cheap, said = mode.abs() < 0.5, mode > -0.5
        right = (outcome(batch, self.outcome) >= 1 - 1e-9).to(batch.sequences["reward"].dtype)
        rate = segments.mean(right, batch.group, batch.n_groups, cheap.to(right.dtype))[batch.group]
        factor = torch.where(cheap | (rate < self.easy), torch.ones_like(rate), 1 - rate**self.power)
        context.log("credit/cheap_share", cheap.float().mean() if len(cheap) else 0.0)
        return batch.with_sequences(reward=batch.sequences["reward"] * factor * said)


def length_direction(batch: Batch, right: Tensor, finished: bool = False) -> tuple[Tensor, Tensor]:
    """Per group, the longest right answer (-inf without one) and the mean length of the wrong ones, [G]: +inf without one, or with
    `finished` the mean of those that were not cut off and -inf without one."""
    size = lengths(batch)
    longest = segments.max(torch.where(right, size, -torch.inf), batch.group, batch.n_groups)
    wrong = (~right & ~batch.sequences["truncated"] if finished else ~right).to(size.dtype)
    some = segments.sum(wrong, batch.group, batch.n_groups) > 0
    mean_wrong = segments.mean(size, batch.group, batch.n_groups, wrong)
    return longest, torch.where(some, mean_wrong, -torch.inf if finished else torch.inf)
