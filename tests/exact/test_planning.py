"""Planning for the worst model: against enumeration, its bound and its certificate, and the windy walk in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from anypo.claims.planners.robust import random_set
from anypo.errors import UserError
from anypo.exact.mdp import TabularMDP, random_mdp
from anypo.exact.planning.beds import WindyWalk
from anypo.exact.planning.robust import Iwocs, iwocs, robust_values, worst_cases


def best_worst_case(models: list[TabularMDP]) -> float:
    """max over every deterministic policy of min over models, by enumeration and simulation of the linear system."""
    first, best = models[0], -float("inf")
    for policy in itertools.product(range(first.actions), repeat=first.states):
        worst = float("inf")
        for model in models:
            rows = torch.stack([model.transitions[s, a] for s, a in enumerate(policy)])
            gained = torch.stack([model.rewards[s, a] for s, a in enumerate(policy)])
            v = torch.zeros_like(gained)
            for _ in range(600):
                v = gained + model.discount * rows @ v
            worst = min(worst, float(model.start @ v))
        best = max(best, worst)
    return best


@pytest.mark.exact("iwocs")
@pytest.mark.parametrize("seed", range(12))
def test_a_certificate_is_true_and_the_bound_always_holds(seed: int) -> None:
    models = random_set(seed, models=4)
    plan, best = iwocs(models), best_worst_case(models)
    assert plan.value <= best + 1e-9, "no policy beats enumeration"
    for row in plan.rounds:
        assert row["bound"] >= best - 1e-9, "the bound is above every deterministic policy's worst case"
    if plan.certified:
        assert plan.value == pytest.approx(best, abs=1e-8)
    assert plan.value == pytest.approx(float(worst_cases(models, plan.policy).min()))


def test_some_sets_end_with_a_certificate_and_some_do_not() -> None:
    ends = {iwocs(random_set(seed)).certified for seed in range(60)}
    assert ends == {True, False}


@pytest.mark.parametrize("seed", range(6))
def test_bounds_fall_and_stay_above_robust_values(seed: int) -> None:
    models = random_set(seed + 50, models=8, states=4, actions=3)
    plan = iwocs(models)
    bounds = [row["bound"] for row in plan.rounds]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(bounds))
    v, q = robust_values(models)
    assert bool((plan.q >= q - 1e-9).all()) and bool((plan.values >= v - 1e-9).all())
    fewer = iwocs(models, rounds=1)
    assert len(fewer.rounds) <= 2 and bool((fewer.q >= plan.q - 1e-12).all())


def test_robust_values_solve_their_equation_and_are_plain_ones_for_one_model() -> None:
    models = random_set(3, models=5)
    v, q = robust_values(models)
    each = torch.stack([m.rewards + m.discount * torch.einsum("sat,t->sa", m.transitions, v) for m in models])
    assert torch.allclose(q, each.amin(0), atol=1e-10) and torch.allclose(v, q.amax(1), atol=1e-10)
    single = models[:1]
    plan, (value, action_values) = iwocs(single), single[0].optimal()
    assert torch.allclose(plan.q, action_values) and torch.allclose(robust_values(single)[0], value, atol=1e-9)
    assert plan.certified and len(plan.rounds) == 1 and plan.value == pytest.approx(float(value[0]), abs=1e-9)


def test_a_walk_is_worth_what_the_waiting_time_says() -> None:
    bed = WindyWalk(lengths=(3, 4), powers=(1.0, 2.0), discount=0.9)
    model, wind = bed.model(0.4), 0.4
    policy = torch.zeros(model.states, dtype=torch.int64)  # the first corridor, always on
    # V(start) = -1 + g V(1); V(cell) = -1 + g ((1 - w) V(next) + w V(start)): solved backwards as a + b V(start)
    a, b = 0.0, 0.0
    for _ in range(3):
        a, b = -1 + 0.9 * (1 - wind) * a, 0.9 * (1 - wind) * b + 0.9 * wind
    start = (-1 + 0.9 * a) / (1 - 0.9 * b)
    assert float(worst_cases([model], policy)) == pytest.approx(start, abs=1e-12)
    assert torch.allclose(model.transitions.sum(-1), torch.ones(model.states, 2, dtype=torch.float64))
    assert bed.states()[0] == "start" and len(bed.states()) == model.states and len(bed.actions()) == model.actions


def test_the_windy_walk_takes_two_models_and_matches_robust_values() -> None:
    bed = WindyWalk()
    models = bed.models()
    plan = Iwocs().plan()
    assert len(models) == 25 and [int(row["model"]) for row in plan.rounds] == [0, 24]
    assert plan.certified and plan.value == pytest.approx(float(robust_values(models)[0][0]), abs=1e-8)
    assert int(plan.policy[0]) == 2 and int(iwocs(models[:1]).policy[0]) == 0, "the calm way is the long one"
    assert plan.state_names == tuple(bed.states()) and plan.plain()["certified"] is True


def test_sets_that_do_not_fit_are_refused() -> None:
    one, other = random_mdp(3, 2), random_mdp(4, 2)
    with pytest.raises(UserError, match="at least one model"):
        iwocs([])
    with pytest.raises(UserError, match="one state"):
        iwocs([one])
    with pytest.raises(UserError, match="must share"):
        iwocs([one, other])
    with pytest.raises(UserError, match="every corridor needs"):
        WindyWalk.make({"lengths": (1, 2)})
