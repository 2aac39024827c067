"""Supervised fine-tuning: maximise the log-likelihood of target tokens after their prompts.

One optimiser step minimises the mean over all target tokens of its examples, however these are cut into micro-batches:

    loss = - 1 / (number of target tokens of the step) * sum over examples and target tokens of log pi(token | what precedes it)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Tokens, Trajectory
from anypo.errors import UserError
from anypo.tasks.base import Task
from anypo.tasks.live import posed
from anypo.update.precision import exact

Example = tuple[np.ndarray, np.ndarray]
"""Prompt tokens and target tokens (end-of-sequence included), both int."""

Progress = Callable[[int, float], Any]
"""Called after every step with the number of steps done and the loss of the last one."""


class SFT(BaseModel):
    """steps: optimiser steps. examples: per step, drawn without replacement until all were used. lr: peak of a linear warm-up
    over `warmup` steps followed by a linear decay to 0. token_budget: most tokens, prompts included, of one micro-batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(250, ge=0)
    examples: int = Field(64, ge=1)
    lr: float = Field(2e-3, gt=0.0)
    warmup: int = Field(10, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    token_budget: int = Field(16384, ge=1)
    seed: int = Field(0, ge=0)


class Fitting:
    """A supervised training of `policy`, in place, step by step. `losses`: of every step so far (nats per target token).

    Deterministic on a CPU, and taken up again exactly from its `state_dict`. Raises `UserError` for no examples, an empty target,
    an example longer than the context, or a loss that is not finite.
    """

    def __init__(self, policy: Any, examples: Sequence[Example], settings: SFT) -> None:
        _check(policy, examples)
        self.policy, self.settings = policy, settings
        self.trajectories = [trajectory(prompt, target) for prompt, target in examples]
        self.parameters = list(policy.parameters())
        self.optimiser = _optimiser(self.parameters, settings)
        self.order = _order(len(examples), settings.examples, settings.seed)
        self.losses: list[float] = []

    @property
    def over(self) -> bool:
        return len(self.losses) >= self.settings.steps

    def step(self) -> None:
        """One optimiser step."""
        settings, step = self.settings, len(self.losses)
        loss = accumulate(self.policy, [self.trajectories[i] for i in next(self.order)], settings.token_budget)
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            raise UserError(
                f"the loss or its gradient is not finite at supervised step {step + 1}; lower the learning rate ({settings.lr:g})"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * rate(step, settings)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.policy.version += 1
        self.losses.append(loss)

    def state_dict(self) -> dict[str, Any]:
        policy = {"weights": self.policy.state_dict(), "version": self.policy.version}
        return {"policy": policy, "optimiser": self.optimiser.state_dict(), "losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another fitting's state, over the same examples; for one that has taken no step yet."""
        self.policy.load_state_dict(state["policy"]["weights"])
        self.policy.version = state["policy"]["version"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.losses = list(state["losses"])
        for _ in self.losses:
            next(self.order)


def train(policy: Any, examples: Sequence[Example], settings: SFT, progress: Progress | None = None) -> list[float]:
    """Train `policy` in place; returns the loss of every step (see `Fitting`)."""
    return finish(Fitting(policy, examples, settings), progress)


def finish(fitting: Fitting, progress: Progress | None = None) -> list[float]:
    """Every step that is left; returns the loss of every step."""
    while not fitting.over:
        fitting.step()
        if progress is not None:
            progress(len(fitting.losses), fitting.losses[-1])
    return fitting.losses


NO_WORKED = (
    "task '{}' has no worked solutions to learn from; name their column with --task-set solution=COLUMN, or leave out the supervised "
    "warm start (--sft-steps 0)"
)

EXAMPLES = 64
"""Worked solutions that a warm start shows a step."""


def warm_start(policy: Any, task: Task, steps: int, lr: float, seed: int, examples: int = EXAMPLES) -> Fitting:
    """The training on the worked solutions of the task's training problems, `examples` per step, before its first step."""
    settings = SFT(steps=steps, lr=lr, seed=seed, examples=examples)
    return Fitting(policy, solutions(policy, task, min(len(task), steps * examples)), settings)


def worked(task: Task, steps: int) -> bool:
    """Whether a warm start of that many steps on the task would meet a worked solution."""
    return any(posed(task, task.train, index).solution for index in range(min(len(task), steps * EXAMPLES)))


def solutions(policy: Any, task: Task, count: int) -> list[Example]:
    """The first `count` training problems with a solution, as token pairs. `UserError` when the task has none."""
    problems = (posed(task, task.train, index) for index in range(count))
    pairs = [(policy.encode(p.messages), policy.answer(p.solution)) for p in problems if p.solution]
    if count and not pairs:
        raise UserError(NO_WORKED.format(task.name))
    return pairs


def accumulate(policy: Any, trajectories: Sequence[Trajectory], token_budget: int) -> float:
    """Add the gradient of the step's mean token loss to the parameters, in micro-batches; returns the loss."""
    batch = Batch.of(trajectories, [0] * len(trajectories), 1)
    coefficient = torch.full((len(batch),), -1.0 / len(batch))
    logp = policy.backward(batch, {"logp": coefficient}, token_budget)["logp"]
    return float(-logp.double().mean())


def rate(step: int, settings: SFT) -> float:
    """Learning-rate factor of a step: linear warm-up, then linear decay that would reach 0 one step after the last."""
    up = (step + 1) / (settings.warmup + 1)
    down = (settings.steps - step) / max(1, settings.steps - settings.warmup)
    return min(1.0, up, down)


def _optimiser(parameters: list[nn.Parameter], settings: SFT) -> torch.optim.Optimizer:
    def build(over: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            over, lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )

    return exact(parameters, build)


def _order(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Endless blocks of `size` indices below `count`; every pass is a new permutation."""
    block: list[int] = []
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(count).tolist():
            block.append(index)
            if len(block) == size:
                yield block
                block = []
        epoch += 1


def trajectory(prompt: np.ndarray, target: np.ndarray) -> Trajectory:
    roles = np.repeat(np.array([CONTEXT, ACTION], dtype=np.int8), [len(prompt), len(target)])
    tokens = np.concatenate([prompt, target]).astype(np.int32)
    none = np.zeros(len(target))
    return Trajectory(prompt=0, content=Tokens(tokens, roles), logp=none, version=none.astype(np.int64))


def _check(policy: Any, examples: Sequence[Example]) -> None:
    if not examples:
        raise UserError("there are no examples to train on; give at least one pair of prompt and target")
    for number, (prompt, target) in enumerate(examples):
        if not len(prompt) or not len(target):
            what = "prompt" if not len(prompt) else "target"
            raise UserError(
                f"supervised example {number} has an empty {what}; every example needs at least one token of each"
            )
        if len(prompt) + len(target) > policy.context:
            raise UserError(
                f"supervised example {number} has {len(prompt) + len(target)} tokens but the model's context is "
                f"{policy.context}; shorten it or choose another model"
            )
