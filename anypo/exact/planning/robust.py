"""Policies for the worst of several static processes (Zouitine et al., "Solving robust MDPs as a sequence of static RL problems",
arXiv:2410.06212), and robust value iteration to compare with.

Let Q*_T be the optimal values of model T, Q_i = min over the models found so far of Q*_T, and pi_i greedy in Q_i. For every
deterministic policy pi and a start in one state s0, Q_i(s0, pi_i(s0)) >= min_T V^pi_T(s0), because Q*_T >= Q^pi_T. So where the
worst case of pi_i equals that bound, no deterministic policy has a better one: the equality is a certificate, and without it
the method may have stopped early.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from anypo.errors import UserError
from anypo.exact.mdp import TabularMDP
from anypo.exact.planning.base import Bed, Plan, Planner
from anypo.exact.planning.beds import WindyWalk


def iwocs(models: Sequence[TabularMDP], rounds: int = 10, tolerance: float = 1e-9) -> Plan:
    """Incremental worst-case search. Solve the nominal (first) model; find the model that is worst for the policy; solve that one
    too and take the minimum of the optimal values; until the worst case equals the bound to `tolerance`, the worst model is an
    old one, or `rounds` models were added.

    The plan's `values` are the bounds max_a Q_i [S], `value` is the worst case of its policy. Raises `UserError` for models that do
    not share shapes, start and discount, or whose start is not one state.
    """
    _check(models)
    found, rows = [0], []
    q = models[0].optimal()[1]
    while True:
        policy = q.argmax(1)
        worth = worst_cases(models, policy)
        worst = int(worth.argmin())
        bound, value = float(models[0].start @ q.max(1).values), float(worth[worst])
        rows.append(
            {"round": len(found) - 1, "model": found[-1], "bound": bound, "worst model": worst, "worst case": value}
        )
        certified = bound - value <= tolerance
        if certified or worst in found or len(found) > rounds:
            break
        found.append(worst)
        q = torch.minimum(q, models[worst].optimal()[1])
    ending = (
        "no deterministic policy has a better one"
        if certified
        else f"the bound {bound:.6g} was not reached, so a better policy may exist"
    )
    says = f"worst case {value:.6g} (model {worst}) after solving {len(found)} of {len(models)} models; {ending}"
    return Plan(policy, q.max(1).values, q, value, certified, tuple(rows), says)


def worst_cases(models: Sequence[TabularMDP], policy: Tensor) -> Tensor:
    """Value of a deterministic policy [S] from the start under every model, [models]."""
    table = one_hot(policy, models[0].actions).to(models[0].rewards.dtype)
    return torch.stack([model.value(table) for model in models])


def robust_values(
    models: Sequence[TabularMDP], sweeps: int = 10_000, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """V [S] and Q [S, A] of robust value iteration, in which nature picks a model anew for every state and action (Iyengar 2005;
    Nilim & El Ghaoui 2005): a lower bound on the worst case over static models."""
    v = torch.zeros(models[0].states, dtype=models[0].rewards.dtype)
    for _ in range(sweeps):
        q = _pessimistic(models, v)
        v, before = q.max(1).values, v
        if float((v - before).abs().max()) < tolerance:
            break
    return v, _pessimistic(models, v)


def _pessimistic(models: Sequence[TabularMDP], v: Tensor) -> Tensor:
    return torch.stack([m.rewards + m.discount * m.transitions @ v for m in models]).min(0).values


def _check(models: Sequence[TabularMDP]) -> None:
    if not models:
        raise UserError("a robust plan needs at least one model")
    first = models[0]
    for model in models:
        same = model.rewards.shape == first.rewards.shape and model.discount == first.discount
        if not same or not torch.equal(model.start, first.start):
            raise UserError("the models of a robust plan must share states, actions, the start and the discount")
    if float(first.start.max()) < 1.0:
        raise UserError("the start of a robust plan must be one state, or its bound says nothing")


class Iwocs(Planner, name="iwocs"):
    """Incremental worst-case search over the models of a bed (see `iwocs`)."""

    bed: Bed = WindyWalk()
    rounds: int = Field(10, ge=0, description="most models added to the nominal one")
    tolerance: float = Field(1e-9, ge=0.0, description="gap between bound and worst case that counts as none")

    def plan(self) -> Plan:
        return iwocs(self.bed.models(), self.rounds, self.tolerance).named(self.bed.states(), self.bed.actions())
