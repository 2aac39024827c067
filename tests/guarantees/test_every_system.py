"""What every registered system must guarantee, whatever it is. A system may be excused from a property for a stated reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from excuses import PROPERTIES, excuse, excused
from making_worlds import Case, parameter_gradient, play

from anypo.algorithm import Algorithm
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.objective import Blend, PolicyGradient
from anypo.systems import SYSTEMS, methods
from anypo.update import GradientUpdate

NORMAL = Case([[3, 5, 1, 4], [2, 6, 3], [4, 4, 4, 1]], rewards=[[1, 0, 0, 1], [0, 1, 0], [1, 1, 0, 1]])
EDGES = {
    "nothing counts": Case([[3, 5], [2, 2]], weight=lambda n: np.zeros(n)),
    "rewards all equal": Case([[3, 5, 2], [4, 1]], rewards=[[1, 1, 1], [1, 1]]),
    "rewards all zero": Case([[3, 5, 2], [4, 1]], rewards=[[0, 0, 0], [0, 0]]),
    "one token": Case([[1, 1, 1], [1, 1, 1]]),
    "one sample": Case([[3], [4], [2]]),
    "one row": Case([[1]]),
    "ratios of e^+-70": Case([[6, 5, 4], [7, 3]], extreme=True),
    "ratios of e^+-70, one token": Case([[1, 1], [1, 1]], extreme=True, seed=3),
    "advantages of zero": Case([[3, 5, 2], [4, 1]], zero_advantage=True),
    "all truncated": Case([[3, 5, 2], [4, 1]], truncated=True),
    "huge rewards": Case([[3, 5, 2], [4, 1]], rewards=[[1e6, -1e6, 0], [1e6, 1e6]]),
}


def random_case(seed: int) -> Case:
    """Groups, lengths, rewards, masks and drift drawn at random."""
    rng = np.random.default_rng([seed, 7])
    lengths = [rng.integers(1, 9, rng.integers(1, 6)).tolist() for _ in range(rng.integers(1, 5))]
    rewards = [rng.choice([0.0, 0.5, 1.0, -1.0], len(row)).tolist() for row in lengths]
    weight = lambda n: (np.random.default_rng(seed).random(n) < 0.8).astype(float)
    return Case(lengths, rewards, drift=float(rng.uniform(0, 2)), weight=weight, seed=seed)


EDGES |= {f"random {seed}": random_case(seed) for seed in range(3)}

names = pytest.mark.parametrize("name", sorted(methods("tokens")))


def algorithm(name: str) -> Algorithm:
    needs = SYSTEMS[name].needs
    built = SYSTEMS[name].algorithm().set(needs)
    if not isinstance(built.update, GradientUpdate):
        pytest.skip(f"update={built.update.part} takes no gradient of an objective")
    return built.set({"update.reference": "frozen"}) if needs else built


@names
def test_checks_and_survives_yaml(name: str) -> None:
    method = SYSTEMS[name].algorithm()
    assert Algorithm.from_yaml(method.yaml()) == method
    assert SYSTEMS[name].description, "a system says what it does"
    if excuse("checks", name):
        with pytest.raises(UserError):
            method.check()
        method = method.set(SYSTEMS[name].needs)
    assert method.check() is method


@names
def test_edge_cases_are_finite(name: str) -> None:
    for label, case in EDGES.items():
        for dtype in (torch.float64, torch.float32):
            outcome = play(algorithm(name), Case(**{**vars(case), "dtype": dtype}))
            where = f"{label}, {dtype}"
            assert bool(torch.isfinite(outcome.pull.loss)), where
            for column, gradient in outcome.pull.gradients.items():
                assert bool(torch.isfinite(gradient).all()), f"{where}: gradient of {column}"
            for metric, value in outcome.metrics.items():
                assert math.isfinite(value), f"{where}: {metric} = {value}"


@names
def test_order_of_sequences_does_not_matter(name: str) -> None:
    excused("order", name)
    for seed, case in ((0, NORMAL), (1, NORMAL), (2, random_case(3))):
        plain = play(algorithm(name), case)
        count = sum(len(row) for row in case.lengths)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
        mixed = play(algorithm(name), case, lambda batch, order=order: batch.select(order))
        assert mixed.loss == pytest.approx(plain.loss, rel=1e-9, abs=1e-12)
        for column in plain.pull.gradients:
            assert mixed.by_row(column) == pytest.approx(plain.by_row(column), rel=1e-8, abs=1e-11), column


@names
def test_the_gradient_does_not_depend_on_the_cut(name: str) -> None:
    outcome = play(algorithm(name), NORMAL)
    whole = parameter_gradient(outcome, 10_000)
    for budget in (1, 7):
        torch.testing.assert_close(parameter_gradient(outcome, budget), whole, rtol=1e-10, atol=1e-12)


@names
def test_rows_that_do_not_count_have_no_influence(name: str) -> None:
    """A masked decision's log-probability (or divergence) has no gradient, and changing it changes nothing else."""
    excused("masked rows", name)
    masked = np.random.default_rng(5).random(41) < 0.3
    case = Case(NORMAL.lengths, NORMAL.rewards, weight=lambda n: (~masked[:n]).astype(float))
    first = play(algorithm(name), case)
    moved = play(algorithm(name), case, nudge=np.where(masked[: sum(map(sum, NORMAL.lengths))], -0.7, 0.0))
    assert moved.loss == pytest.approx(first.loss, rel=1e-10, abs=1e-12)
    gone = first.batch.weight == 0
    for outcome in (first, moved):
        assert bool((outcome.pull.gradients[outcome.acting][gone] == 0).all())
    assert moved.by_row() == pytest.approx(first.by_row(), rel=1e-9, abs=1e-12)


@names
def test_on_policy_the_gradient_is_that_of_the_score_function(name: str) -> None:
    """With every ratio 1 the surrogate's gradient is the aggregate of A grad log pi."""
    excused("on-policy", name)
    method = algorithm(name)
    objective = method.objective.rollouts if isinstance(method.objective, Blend) else method.objective
    if not isinstance(objective, PolicyGradient):
        pytest.skip("its objective is not a policy gradient with a ratio")
    bare = method.replace(objective=objective.replace(regularise=()))
    outcome = play(bare, NORMAL, on_policy=True)
    batch = outcome.pull.batch
    logp = batch["logp"].detach().clone().requires_grad_()
    value = -objective.aggregate.reduce(batch["advantage"] * logp, batch)
    (expected,) = torch.autograd.grad(value, logp)
    torch.testing.assert_close(outcome.pull.gradients["logp"], expected, rtol=1e-8, atol=1e-10)


@names
@pytest.mark.parametrize("kind", ["reward offset", "common offset"])
def test_adding_a_constant_to_rewards_changes_nothing(name: str, kind: str) -> None:
    """A constant of its own for every group ("reward offset"), or the same one for all ("common offset")."""
    excused(kind, name)
    if kind == "common offset" and not excuse("reward offset", name):
        pytest.skip("implied by the offset per group")
    constants = [0.5, -0.25, 2.0] if kind == "reward offset" else [0.5] * 3

    def offset(batch: Batch) -> Batch:
        constant = torch.tensor(constants, dtype=torch.float64)[batch.group]
        return batch.with_sequences(reward=batch.sequences["reward"] + constant)

    plain, shifted = play(algorithm(name), NORMAL), play(algorithm(name), NORMAL, offset)
    for column in plain.pull.gradients:
        assert shifted.by_row(column) == pytest.approx(plain.by_row(column), rel=1e-6, abs=1e-8), column


@names
def test_every_excuse_names_a_property_and_a_reason(name: str) -> None:
    system = SYSTEMS[name]
    for excuses in (system.excuses, *(part.excuses for _, part in system.algorithm().walk())):
        assert excuses.keys() <= PROPERTIES and all(len(reason) > 10 for reason in excuses.values())
    assert bool(system.needs) == bool(excuse("checks", name)), "what it needs, and why it is not built without"


def test_the_synthetic_batch_is_not_trivial() -> None:
    outcome = play(SYSTEMS["grpo"].algorithm(), NORMAL)
    gradient = outcome.pull.gradients["logp"]
    assert int((gradient != 0).sum()) > len(gradient) // 2
    assert segments.std(outcome.batch.sequences["reward"], outcome.batch.group, 3).min() > 0
