"""A run's optimiser steps beside a loss written without the library: walks through the graph, autograd, plain descent."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from making_systems import trainer
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.data.records import Trajectory
from anypo.generate.resume import decisions
from anypo.run.trainer import Trainer

RATE = 0.5
PLAIN: Mapping[str, Any] = {
    "update.optimiser": {"part": "sgd", "lr": RATE},
    "update.max_grad_norm": math.inf,
    "update.epochs": 1,
    "update.minibatches_per_epoch": 1,
}
"""One step of gradient descent a batch."""


def log_probabilities(policy: Any, trajectory: Trajectory) -> Tensor:
    """Of every decision of a trajectory, by a walk from the root of the graph, [T]."""
    table, state, found = policy.log_table()[place(policy, trajectory)], 0, []
    tokens = [t for t in trajectory.content.tokens.tolist() if t < policy.graph.vocabulary]  # type: ignore[union-attr]
    for token in tokens:
        found.append(table[state, token])
        state = int(policy.graph.child[state, token])
    return torch.stack(found[len(found) - len(decisions(trajectory)) :])


def place(policy: Any, trajectory: Trajectory) -> int:
    """Which prompt it answers: the prompt is one token behind the vocabulary."""
    return int(trajectory.content.tokens[0]) - policy.graph.vocabulary  # type: ignore[union-attr]


def steps(
    system: str | Algorithm, changes: Mapping[str, Any], bed: Testbed, count: int
) -> Iterator[tuple[Any, Trainer]]:
    """The run after each of its steps, and the policy as it was before it."""
    run = trainer(system, {**PLAIN, **changes}, bed)
    for _ in range(count):
        before = copy.deepcopy(run.world.policy)
        run.step()
        yield before, run


def assert_descended(before: Any, after: Any, loss: Tensor) -> None:
    """The weights are those of one step down `loss`, taken at the weights before, where it has a gradient."""
    (gradient,) = torch.autograd.grad(loss, before.weight)
    assert float(gradient.norm()) > 1e-6, "a gradient of zero shows nothing"
    torch.testing.assert_close(after.weight.detach(), before.weight.detach() - RATE * gradient, rtol=1e-6, atol=1e-8)
