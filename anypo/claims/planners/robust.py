"""Planning against the worst of several static models."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, identity
from anypo.exact.mdp import TabularMDP, random_mdp
from anypo.exact.planning.beds import WindyWalk
from anypo.exact.planning.robust import iwocs, robust_values, worst_cases


@claim("iwocs", base="the nominal model's policy", seconds=30, seeds=8,
       published="finds the worst model of windy walk in 2 iterations and matches robust value iteration; best worst case on 7 of 11 "
                 "MuJoCo benchmarks",
       stand_in="windy walks of random lengths; tables only, without the deep version")  # fmt: skip
def iwocs_claim(run: ClaimRun) -> Outcome:
    """The worst case of the policy that is found against the value of robust value iteration, on windy walks with random lengths and
    25 winds; and against the best of all deterministic policies where random three-state sets end with a certificate. The error is
    the largest of all; the base is the mean shortfall of the policy that is best without wind."""
    errors, short, models = [], [], []
    for seed in run.seeds:
        bed = WindyWalk(lengths=tuple(np.random.default_rng(seed).integers(2, 7, 3).tolist()))
        walks = bed.models()
        plan = iwocs(walks)
        robust = float(walks[0].start @ robust_values(walks)[0])
        errors.append(abs(plan.value - robust))
        short.append(robust - plan.rounds[0]["worst case"])
        models.append(len(plan.rounds))
    run.note(f"models solved: {min(models)} to {max(models)} of 25.")
    exact = [enumerated(random_set(seed)) for seed in run.seeds]
    known = [error for error in exact if error is not None]
    run.note(
        f"random sets of 6 models with 3 states and 2 actions: {len(known)} of {len(exact)} ended with a certificate."
    )
    return identity(max([*errors, *known]), 1e-6, "shortfall of the worst case", run, base=float(np.mean(short)))


def random_set(seed: int, models: int = 6, states: int = 3, actions: int = 2) -> list[TabularMDP]:
    """Random models with one start state and common rewards."""
    made = [random_mdp(states, actions, 0.9, states, seed * models + number) for number in range(models)]
    start = torch.eye(states, dtype=torch.float64)[0]
    return [TabularMDP(model.transitions, made[0].rewards, start, 0.9) for model in made]


def enumerated(models: list[TabularMDP]) -> float | None:
    """Distance of the certified worst case to the best over every deterministic policy; None without a certificate."""
    plan = iwocs(models)
    if not plan.certified:
        return None
    first = models[0]
    every = itertools.product(range(first.actions), repeat=first.states)
    best = max(float(worst_cases(models, torch.tensor(policy)).min()) for policy in every)
    return abs(best - plan.value)
