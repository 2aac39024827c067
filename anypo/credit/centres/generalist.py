"""A generalist value model at state zero: how likely is success on this prompt, given what the policy did on others lately?

The policy is described by a context of recent (prompt, outcome) pairs; when it changes, the context changes and no weight has
to. Small stand-in for the published model (arXiv:2602.03584): hashed prompt features in place of a frozen embedder, a learned
projection with kernel attention over the context in place of a frozen tabular transformer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anypo.context import Context
from anypo.credit.base import Centre, Shaping
from anypo.data.batch import Batch
from anypo.data.prompts import VALUES
from anypo.data.records import CONTEXT, Tokens, Trajectory
from anypo.data.tokens import WIDTH, hashed


def prompt_features(trajectory: Trajectory) -> np.ndarray:
    """Features of the prompt a rollout answers, [WIDTH]: its hashed tokens, or for a control rollout the first
    observation, cut or filled up to WIDTH."""
    content = trajectory.content
    if isinstance(content, Tokens):
        actions = np.flatnonzero(content.roles != CONTEXT)
        return hashed(content.tokens[: actions[0] if len(actions) else None])
    out = np.zeros(WIDTH, dtype=np.float32)
    first = np.asarray(content.observations[:1], dtype=np.float32).ravel()[:WIDTH]
    out[: len(first)] = first
    return out


class ContextValue(nn.Module):
    """logit P(success | x, C): a kernel estimate over the context plus a learned difficulty of the prompt.

    Called with queries [Q, D], context prompts [C, D], outcomes [C] in [0, 1] and a mask [Q, C] of context entries each
    query may see; returns logits [Q]. Permuting the context changes nothing.
    """

    def __init__(self, width: int = WIDTH, dim: int = 16, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.project = nn.Parameter(torch.randn(width, dim, generator=generator) / dim**0.5)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.prior = nn.Parameter(torch.tensor(0.0))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.difficulty = nn.Sequential(nn.Linear(dim, 32), nn.Tanh(), nn.Linear(32, 1))
        with torch.no_grad():
            for parameter in self.difficulty.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, queries: Tensor, prompts: Tensor, outcomes: Tensor, mask: Tensor | None = None) -> Tensor:
        q, c = queries @ self.project, prompts @ self.project
        distance = (q**2).sum(1, keepdim=True) - 2 * q @ c.T + (c**2).sum(1)
        kernel = (-F.softplus(self.sharpness) * distance.clamp(min=0.0)).exp()
        kernel = kernel if mask is None else kernel * mask
        prior = F.softplus(self.prior)
        rate = (kernel @ outcomes + prior * outcomes.mean()) / (kernel.sum(1) + prior)
        return self.gain * torch.logit(rate, eps=0.02) + self.difficulty(q).squeeze(1)


def value_loss(logits: Tensor, outcomes: Tensor, rank_weight: float) -> Tensor:
    """(1 - w) cross-entropy + w ranking loss -E log sigmoid(s_i - s_j) over pairs of a solved i and a failed j that share the
    context. The ranking term does not change when a function of the context alone is added to all logits."""
    entropy = F.binary_cross_entropy_with_logits(logits, outcomes)
    solved, failed = logits[outcomes > 0.5], logits[outcomes <= 0.5]
    if rank_weight == 0 or not len(solved) or not len(failed):
        return entropy
    rank = F.softplus(-(solved[:, None] - failed)).mean()
    return (1 - rank_weight) * entropy + rank_weight * rank


class ValueModel:
    """The model, its optimiser, and the outcomes that describe the policy: the last `capacity` (prompt features, reward) pairs."""

    def __init__(self, lr: float, capacity: int) -> None:
        self.model, self.capacity = ContextValue(), capacity
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.prompts, self.outcomes = torch.zeros(0, WIDTH), torch.zeros(0)

    @torch.no_grad()
    def predict(self, queries: Tensor) -> Tensor:
        """Success probability of every query [Q, WIDTH] given the newer half of the outcomes, [Q]; 1/2 before there are any."""
        if not len(self.outcomes):
            return torch.full((len(queries),), 0.5)
        half = slice(-(len(self.outcomes) + 1) // 2, None) if len(self.outcomes) > 8 else slice(None)
        return torch.sigmoid(self.model(queries, self.prompts[half], self.outcomes[half]))

    def remember(self, prompts: Tensor, outcomes: Tensor) -> None:
        """Append outcomes [S] of prompts [S, WIDTH]; the oldest leave."""
        self.prompts = torch.cat([self.prompts, prompts])[-self.capacity :]
        self.outcomes = torch.cat([self.outcomes, outcomes])[-self.capacity :]

    def learn(self, rank_weight: float) -> float | None:
        """One gradient step: the newer half of the memory is predicted, each target hidden from its own context. The loss."""
        n = len(self.outcomes)
        if n < 8:
            return None
        queries, outcomes = self.prompts[n // 2 :], self.outcomes[n // 2 :]
        same = (queries @ self.prompts.T) > 1 - 1e-5  # no outcome of the very same prompt, or x alone would be learned
        loss = value_loss(self.model(queries, self.prompts, self.outcomes, (~same).float()), outcomes, rank_weight)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "prompts": self.prompts,
            "outcomes": self.outcomes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.prompts, self.outcomes = state["prompts"], state["outcomes"]


class GeneralistValue(Centre, name="generalist_value"):
    """The baseline is the model's success probability of the prompt given the last `context` outcomes (V0, arXiv:2602.03584).
    It sees nothing of the rollout it judges, so one rollout per prompt is enough and the gradient stays unbiased.

    After every step the model takes `updates` gradient steps on held-out targets among the remembered outcomes
    (`rank_weight` ranking + the rest cross-entropy). It stands on the run's shelf, where a control part asks it about prompts that
    were never rolled out. Rewards are expected in [0, 1].
    """

    context: int = Field(256, ge=8)
    updates: int = Field(4, ge=0)
    lr: float = Field(3e-3, gt=0.0)
    rank_weight: float = Field(0.25, ge=0.0, le=1.0)

    def stores(self) -> dict[str, Any]:
        return {VALUES: ValueModel(self.lr, 2 * self.context)}

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        known: ValueModel = context.memory.shelf.find(VALUES)
        if not batch.trajectories:
            return torch.zeros_like(values)
        x = torch.from_numpy(np.stack([prompt_features(t) for t in batch.trajectories]))
        rewards = values.mean(1).float().clamp(0.0, 1.0)
        guess = known.predict(x)
        context.log("credit/value_brier", ((guess - rewards) ** 2).mean())
        order = torch.argsort(batch.group * (1 << 32) + batch.sequences["sample"], stable=True)
        known.remember(x[order], rewards[order])
        losses = [loss for _ in range(self.updates) if (loss := known.learn(self.rank_weight)) is not None]
        for loss in losses:
            context.log("credit/value_loss", loss)
        return guess.to(values.dtype).unsqueeze(1).expand_as(values)


class LearnValue(Shaping, name="learn_value"):
    """Trains the generalist value model beside a run that does not use it as its baseline, so that a control part can plan by
    it. Rewards are not changed."""

    model: Centre = GeneralistValue()

    def shape(self, batch: Batch, context: Context) -> Batch:
        self.model.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)
        return batch


def route(rates: list[float], costs: list[float], price: float) -> int:
    """Index of the model with the largest success probability minus `price` times its cost."""
    return int(np.argmax([p - price * c for p, c in zip(rates, costs)]))
