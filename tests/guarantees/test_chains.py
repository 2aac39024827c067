"""What every method must guarantee where the policy acts through chains: the methods as a run in an environment composes them, a real
chain policy and its critic, in float64.

An environment replaces the credit of methods that were written for text, so that several become one: each composition is held once,
under the first of their names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from excuses import excused

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import FINISHED, TRUNCATED, Group, Steps, Trajectory
from anypo.errors import UserError
from anypo.generate.base import check_suits
from anypo.objective import Blend, PolicyGradient
from anypo.policies.generative.chain import ChainPolicy
from anypo.run.settings.presets import has_path, preset_of, suited
from anypo.systems import methods
from anypo.tasks.gym import GymTask
from anypo.update.pulls import Pull, push
from anypo.update.weights import Weights

INNER = 3
SMALL = {"update.epochs": 1, "update.minibatches_per_epoch": 1, "update.minibatches": 1, "credit.whiten": False}


@cache
def compositions() -> dict[str, Algorithm]:
    """The methods of text that can run with chains, by the first name of each."""
    task, found = GymTask("Pendulum-v1"), {}
    for name, system in sorted(methods("tokens").items()):
        base = system.algorithm().set({"update.reference": "frozen"} if system.needs else {})
        algorithm = suited(base, preset_of(base, "", acts=True)).set({"policy": "chain"})
        try:
            check_suits(algorithm.check(), task)
        except UserError:
            continue
        small = {path: value for path, value in SMALL.items() if has_path(algorithm, path)}
        plain = {room: part for room, part in algorithm.set(small).dump().items() if room != "name"}
        found.setdefault(json.dumps(plain, sort_keys=True), (name, algorithm.set(small)))
    return dict(found.values())


names = pytest.mark.parametrize("name", sorted(compositions()))


@dataclass(frozen=True)
class Case:
    """Stretches of so many steps in the environment, one a group. scale: of the rewards; terminated: all or none (every other)."""

    steps: Sequence[int] = (2, 1, 3)
    scale: float = 1.0
    terminated: bool | None = None
    weight: Callable[[int], np.ndarray] | None = None

    def batch(self) -> Batch:
        """Rows of chains with their rewards, all sampled by the policy as it is before an update; ``number`` says which is which."""
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        policy, groups = chain(), []
        for g, n in enumerate(self.steps):
            seen = rng.normal(size=(n, 3))
            actions, logp, extra = policy.act(seen, generator)
            flat = {name: array.reshape(n * INNER, *array.shape[2:]) for name, array in extra.items()}
            rewards = np.zeros((n, INNER))
            rewards[:, -1] = rng.normal(size=n) * self.scale
            ended = bool(g % 2) if self.terminated is None else self.terminated
            trajectory = Trajectory(
                prompt=7,
                content=Steps(np.repeat(seen, INNER, 0), actions.reshape(-1, 1), rng.normal(size=3), ended, flat),
                logp=logp.ravel(),
                version=np.zeros(n * INNER, dtype=np.int64),
                turn=np.repeat(np.arange(n), INNER),
                rewards={"return": float(rewards.sum())},
                reward=float(rewards.sum()),
                step_rewards=rewards.ravel(),
                finish=FINISHED if ended else TRUNCATED,
                sample=g,
                weight=None if self.weight is None else self.weight(n * INNER),
            )
            groups.append(Group(7, (trajectory,)))
        batch = Batch.pack(groups, torch.float64)
        return batch.with_rows(number=torch.arange(len(batch)))


packed = cache(Case.batch)


def chain() -> ChainPolicy:
    policy = ChainPolicy(3, np.array([-2.0]), np.array([2.0]), INNER, (6,), seed=2).double()
    return moved(policy, 0.2)


def moved(policy: ChainPolicy, size: float) -> ChainPolicy:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return policy


@dataclass
class Outcome:
    """The pull of every step that an update takes, all at one policy's weights, by the learners it moves."""

    weights: Weights
    batch: Batch
    pulls: dict[str, Pull]

    def by_row(self, key: str, column: str) -> torch.Tensor:
        """The gradient of a column in the order of the rows' numbers."""
        pull = self.pulls[key]
        return pull.gradients[column][pull.batch["number"].argsort()]


def play(
    algorithm: Algorithm, case: Case, change: Callable[[Batch], Batch] | None = None, drift: float = 0.05
) -> Outcome:
    """Columns, credit and derivatives by the real weights; the policy moves by `drift` after its columns were filled."""
    weights, context = prepared(algorithm)
    batch = packed(case) if change is None else change(packed(case))
    batch = algorithm.credit.assign(weights.prepare(batch, context), context)
    moved(weights.policy, drift)
    alone = [[owned] for owned in weights.fits if owned.fit.when == "before_policy"]
    joint = [owned for owned in weights.fits if owned.fit.when == "with_policy"]
    taken = {" ".join(owned.path for owned in fits): fits for fits in [*alone, joint] if fits}
    pulls = {key: weights.differentiate(batch, fits, False, context) for key, fits in taken.items()}
    return Outcome(weights, batch, pulls)


def prepared(algorithm: Algorithm) -> tuple[Weights, Context]:
    weights = Weights(algorithm, chain(), 0)
    for learner in weights.learners.values():
        for p in learner.parameters():
            p.data = p.data.double()
    return weights, Context(0, 100, 0, Memory(algorithm))


def pushed(outcome: Outcome, key: str, budget: int) -> torch.Tensor:
    """The gradient of all parameters that a pull moves, when the work is cut into pieces of `budget` rows."""
    pull, found = outcome.pulls[key], []
    for path, learner in outcome.weights.learners.items():
        asked = outcome.weights.names.live[path]
        mine = {asked[name]: g for name, g in pull.gradients.items() if name in asked}
        for p in learner.parameters():
            p.grad = None
        if mine:
            push(learner, pull.batch, mine, budget)
        found += [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
    return torch.cat(found)


EDGES = {
    "one step": Case((1,), scale=0.0),
    "huge rewards, all terminal": Case((2, 1), scale=1e6, terminated=True),
    "nothing counts": Case((2, 1), weight=np.zeros),
}
MASKED = Case(weight=lambda n: np.tile([1.0, 0.0, 1.0], n // INNER))


@names
def test_edge_cases_are_finite(name: str) -> None:
    for label, case in EDGES.items():
        algorithm = compositions()[name]
        weights, context = prepared(algorithm)
        batch = algorithm.credit.assign(weights.prepare(packed(case), context), context)
        algorithm.update.apply(batch, weights, context)
        for metric, value in context.metrics.values().items():
            assert math.isfinite(value), f"{label}: {metric} = {value}"
        for path, learner in weights.learners.items():
            assert all(bool(torch.isfinite(p).all()) for p in learner.parameters()), f"{label}: {path}"


@names
def test_the_gradient_does_not_depend_on_order_or_cut(name: str) -> None:
    plain = play(compositions()[name], Case())
    mixed = play(compositions()[name], Case(), lambda batch: batch.select(torch.tensor([2, 0, 1])))
    for key, pull in plain.pulls.items():
        assert float(mixed.pulls[key].loss.detach()) == pytest.approx(float(pull.loss.detach()), rel=1e-9, abs=1e-12)
        for column in pull.gradients:
            torch.testing.assert_close(mixed.by_row(key, column), plain.by_row(key, column), rtol=1e-8, atol=1e-11)
        whole = pushed(plain, key, 10_000)
        torch.testing.assert_close(pushed(plain, key, 7), whole, rtol=1e-9, atol=1e-12)


@names
def test_inner_steps_that_do_not_count_have_no_influence(name: str) -> None:
    """An inner step that is masked has no gradient, wherever it led."""
    excused("masked rows", name)

    def elsewhere(batch: Batch) -> Batch:
        return batch.with_rows(action=torch.where((batch.weight == 0)[:, None], batch["action"] + 0.5, batch["action"]))

    first, second = play(compositions()[name], MASKED), play(compositions()[name], MASKED, elsewhere)
    for key, pull in first.pulls.items():
        assert float(second.pulls[key].loss.detach()) == pytest.approx(float(pull.loss.detach()), rel=1e-10, abs=1e-12)
        for gradient in pull.gradients.values():
            assert bool((gradient[pull.batch.weight == 0] == 0).all())


@names
def test_on_fresh_chains_the_gradient_is_that_of_the_score_function(name: str) -> None:
    """Every inner step has the ratio 1 at the weights that sampled it, and the gradient of A log pi."""
    excused("on-policy", name)
    algorithm = compositions()[name]
    objective = algorithm.objective.rollouts if isinstance(algorithm.objective, Blend) else algorithm.objective
    if not isinstance(objective, PolicyGradient):
        pytest.skip("its objective is not a policy gradient with a ratio")
    outcome = play(algorithm.replace(objective=objective.replace(regularise=())), Case(), drift=0.0)
    pull = next(pull for pull in outcome.pulls.values() if "logp" in pull.gradients)
    logp = pull.batch["logp"].detach().clone().requires_grad_()
    torch.testing.assert_close(logp.detach(), pull.batch["logp_behaviour"])
    value = -objective.aggregate.reduce(pull.batch["advantage"] * logp, pull.batch)
    (expected,) = torch.autograd.grad(value, logp)
    torch.testing.assert_close(pull.gradients["logp"], expected, rtol=1e-8, atol=1e-10)


def test_the_bed_is_not_trivial() -> None:
    assert len(compositions()) > 40 and {"a2fm-apo", "trpo"} <= compositions().keys()
    (pull,) = play(compositions()["cispo"], Case()).pulls.values()
    assert int((pull.gradients["logp"] != 0).sum()) > len(pull.batch) // 2
    assert int((pull.gradients["value"] != 0).sum()) > len(pull.batch) // 2
