"""Named systems in small worlds: their trainers, weights and metrics, and the gradients of their objectives."""

from __future__ import annotations

import math

import numpy as np
import torch
from making_rows import loss_and_gradient, make
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.exact.bench import Setting
from anypo.exact.check import case, library_gradient, written_gradient
from anypo.objective import BoundedRatio, PolicyGradient
from anypo.roles import cast
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)
SMALL = Setting(prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular", reward="graded")
STALE = Setting(staleness=16, reward="graded", group=4, prompts=3)
ASYNCHRONOUS = Setting(staleness=16, reward="graded", group=4, prompts=3, old="trainer")


def method(name: str, **changes) -> Algorithm:
    return find(name).algorithm().set(changes)


def trainer(system: str | Algorithm, changes: dict | None = None, bed: Testbed = BED, seed: int = 3) -> Trainer:
    method, world = bed.adapt(system).set(changes or {}), bed.world(seed)
    world.models = cast(method.models, world.policy, world.sampler, seed)
    return Trainer(method, world, seed, 20)


def weights(run: Trainer, steps: int) -> Tensor:
    """The policy's weights after so many steps."""
    for _ in range(steps):
        run.step()
    return run.weights.policy.weight.detach().clone()


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """Step metrics without times, checked to be finite."""
    assert all(math.isfinite(value) for value in metrics.values())
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "rollout/tokens_per"))}


def assign(algorithm: Algorithm, batch: Batch) -> Batch:
    """The batch with the advantages of the algorithm's credit."""
    algorithm = Algorithm.from_dict(algorithm.dump())
    return algorithm.credit.assign(batch, Context(0, 10, 0, Memory(algorithm)))


def slope(objective: PolicyGradient, batch: Batch) -> Tensor:
    """d loss / d logp by row."""
    return loss_and_gradient(objective, batch)[1]


def ascent(objective: PolicyGradient, batch: Batch) -> Tensor:
    """Coefficient of every log-probability in the ascent direction."""
    return -slope(objective, batch)


def assert_same_gradient(name: str, loss, setting: Setting = STALE, seed: int = 0, **changes) -> None:
    given = case(setting, seed)
    expected = written_gradient(loss, given)
    assert float(expected.norm()) > 1e-6, "a gradient of zero shows nothing"
    found = library_gradient(method(name, **changes), given)
    assert float((found - expected).norm() / expected.norm()) < 1e-7


def rows(logp: list[float], old: list[float], advantage: list[float], lengths: list[list[int]] | None = None) -> Batch:
    """Token rows with given columns; one sequence unless `lengths` say otherwise."""
    tensor = lambda values: torch.tensor(values, dtype=torch.float64)
    batch = make(lengths or [[len(logp)]])
    return batch.with_rows(logp=tensor(logp), logp_old=tensor(old), advantage=tensor(advantage))


def targets(trust: BoundedRatio, values: np.ndarray) -> np.ndarray:
    """The target ratios of one-token responses with these advantages."""
    advantage = torch.tensor(values, dtype=torch.float64)
    side = trust.side(advantage, make([[1] * len(values)]))
    return (1 + trust.high * side.clamp(min=0) + trust.low * side.clamp(max=0)).numpy()
