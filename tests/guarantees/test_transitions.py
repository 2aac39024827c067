"""What every method on transitions must guarantee: the same properties as on tokens, where critics and actors do the work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.transitions import Arrays
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.acting import Acting
from anypo.run.trainer import Trainer
from anypo.systems import find, methods
from anypo.tasks.gym import GymTask
from anypo.update.pulls import Pull, push

names = pytest.mark.parametrize("name", sorted(methods("transitions")))


def arrays(count: int, seed: int = 0, scale: float = 1.0, ends: float | None = None) -> Arrays:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    over = (rng.random(count) < 0.3 if ends is None else np.full(count, ends)).astype(np.float32)
    return Arrays(draw(count, 3), np.tanh(draw(count, 1)), draw(count, 3), draw(count) * scale, over)


class Recorded(GymTask):
    """An environment with recorded transitions, for methods that learn from them or standardise by them."""

    def transitions(self) -> Arrays:
        return arrays(32, seed=9)


TASK = Recorded("Pendulum-v1")
EDGES = {
    "one transition": arrays(1),
    "all terminal": arrays(6, ends=1.0),
    "rewards all zero": arrays(6, scale=0.0),
    "huge rewards": arrays(6, scale=1e6),
    "actions at their bounds": Arrays(
        *(getattr(arrays(4), f) if f != "action" else np.sign(arrays(4).action) for f in vars(arrays(4)))
    ),
}


def trainer(name: str) -> Trainer:
    algorithm = find(name).algorithm()
    return Trainer(algorithm, World(TASK, algorithm.policy.build(Wanted(TASK, seed=1)), Acting()), 3, 10)


def pulls(run: Trainer, batch: Batch) -> dict[str, Pull]:
    """The pull of every step that an update takes, all at the weights of the start, by the learners it moves."""
    context = Context(0, 10, 3, run.memory)
    batch = run.algorithm.credit.assign(run.weights.fill(batch), context)
    alone = [[owned] for owned in run.weights.fits if owned.fit.when == "before_policy"]
    joint = [owned for owned in run.weights.fits if owned.fit.when == "with_policy"]
    taken = {" ".join(owned.path for owned in fits): fits for fits in [*alone, joint]}
    return {key: run.weights.differentiate(batch, fits, True, context) for key, fits in taken.items()}


def drawn(run: Trainer, given: Arrays, weight: torch.Tensor | None = None) -> Batch:
    """A batch with the noise of its fresh draws, which belongs to the rows."""
    batch = given.batch()
    if weight is not None:
        batch = batch.with_rows(weight=weight)
    return run.weights._draw(batch, Context(0, 10, 3, run.memory))


def pushed(run: Trainer, path: str, pull: Pull, budget: int) -> torch.Tensor:
    """The gradient of one learner's parameters when the work is cut into pieces of `budget` rows."""
    learner, live = run.weights.learners[path], run.weights.names.live[path]
    for p in learner.parameters():
        p.grad = None
    push(learner, pull.batch, {live[n]: g for n, g in pull.gradients.items() if n in live}, budget)
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


@names
def test_edge_cases_are_finite(name: str) -> None:
    for label, given in EDGES.items():
        run = trainer(name)
        for number in range(2):
            context = Context(number, 10, 3, run.memory)
            batch = run.algorithm.credit.assign(run.weights.prepare(given.batch(), context), context)
            run.algorithm.update.apply(batch, run.weights, context)
            for metric, value in context.metrics.values().items():
                assert math.isfinite(value), f"{label}: {metric} = {value}"
        for path, learner in run.weights.learners.items():
            assert all(bool(torch.isfinite(p).all()) for p in learner.parameters()), f"{label}: {path}"


@names
def test_the_gradient_does_not_depend_on_order_or_cut(name: str) -> None:
    run = trainer(name)
    batch = drawn(run, arrays(12))
    order = torch.from_numpy(np.random.default_rng(1).permutation(12))
    plain, mixed = pulls(run, batch), pulls(run, batch.select(order))
    for key, pull in plain.items():
        assert float(mixed[key].loss.detach()) == pytest.approx(float(pull.loss.detach()), rel=1e-5, abs=1e-6)
        for column, gradient in pull.gradients.items():
            torch.testing.assert_close(mixed[key].gradients[column], gradient[order], rtol=1e-4, atol=1e-6)
        for path in key.split():
            whole, *pieces = (pushed(run, path, pull, budget) for budget in (10_000, 1, 5))
            assert float(whole.abs().sum()) > 0
            for other in pieces:
                torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-6)


@names
def test_rows_that_do_not_count_have_no_influence(name: str) -> None:
    run = trainer(name)
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1])
    given = arrays(8)
    counted = weight.numpy() > 0
    blank = lambda a: np.where(counted.reshape(-1, *[1] * (a.ndim - 1)), a, np.float32(0.5))
    other = Arrays(*(blank(getattr(given, field)) for field in vars(given)))
    first, second = pulls(run, drawn(run, given, weight)), pulls(run, drawn(run, other, weight))
    for key, pull in first.items():
        assert float(second[key].loss.detach()) == pytest.approx(float(pull.loss.detach()), rel=1e-6, abs=1e-7)
        for gradient in pull.gradients.values():
            assert bool((gradient[weight == 0] == 0).all()), key


@names
def test_where_an_episode_ends_nothing_follows(name: str) -> None:
    """The target of a terminal transition is its reward; that of one cut by a time limit is not."""
    run = trainer(name)
    context = Context(0, 10, 3, run.memory)
    ended, open_ = (
        run.algorithm.credit.assign(run.weights.prepare(arrays(6, ends=e).batch(), context), context)
        for e in (1.0, 0.0)
    )
    torch.testing.assert_close(ended["target"], ended["step_reward"])
    assert not torch.allclose(open_["target"], open_["step_reward"])
