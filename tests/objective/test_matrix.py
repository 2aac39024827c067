"""Any part goes with any other, or is refused with a reason.

All slots are filled at once, by a pairwise covering design: every pair of parts from different slots occurs in at least one
algorithm that takes real steps on the enumerable policy, on stale data. Combinations that are refused are split until each of
their pairs was either run or refused by itself.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.credit.plain import StandardDeviation
from anypo.errors import UserError
from anypo.parts import SLOTS
from anypo.run.trainer import Trainer

BED = Testbed(vocabulary=3, horizon=3, prompts=2, batch=2, group=3, lag=1, kind="linear")
PLACES = {
    "objective.ratio": "ratio",
    "objective.trust": "trust",
    "objective.aggregate": "aggregate",
    "objective.corrections": "correction",
    "objective.regularise": "regulariser",
    "credit.components": "components",
    "credit.centre": "centre",
    "credit.scale": "scale",
    "credit.group_weight": "group_weight",
    "credit.normalise": "normalise",
    "credit.select": "select",
    "credit.shape": "shape",
    "credit.shaping": "shaping",
    "update.rules": "step_rule",
    "update.reference": "reference",
}
LISTS = {
    "objective.corrections",
    "objective.regularise",
    "credit.select",
    "credit.shape",
    "credit.shaping",
    "update.rules",
}
BASE = {"update.reference": "frozen", "update.minibatches_per_epoch": 2}
Choice = tuple[str, str]
"""A place and the name of the part that fills it."""


ENABLING: dict[Choice, dict[str, object]] = {
    ("objective.trust", "recentred_clip"): {"objective.ratio": {"part": "token", "denominator": "behaviour"}},
    ("credit.centre", "greedy"): {"generate": "with_greedy"},
    ("credit.select", "replace_by_targets"): {"generate": "shifted_targets"},
}
"""What some parts need around them; without it they are refused."""


def compose(choices: Mapping[str, str]) -> Algorithm:
    """The checked algorithm with these parts in these places. Raises `UserError` when it is refused."""
    changes: dict[str, object] = {}
    for place, name in choices.items():
        changes[place] = [{"part": name}] if place in LISTS else {"part": name}
    for choice in choices.items():
        for place, value in ENABLING.get(choice, {}).items():
            if choices.get(place, "token") == "token":
                changes[place] = value
    return BED.adapt(Algorithm(name="matrix")).set(BASE | changes).check()


def refusal(choices: Mapping[str, str]) -> str:
    """Why the combination is refused before anything runs, or ''."""
    try:
        compose(choices)
    except UserError as error:
        assert len(str(error)) > 20, f"a refusal gives its reason: {error}"
        return str(error)
    return ""


def attempt(choices: Mapping[str, str]) -> str:
    """Build, check and run two steps; the reason when it is refused, '' when it ran. Fails on anything not finite."""
    reason = refusal(choices)
    if reason:
        return reason
    try:
        run = Trainer(compose(choices), BED.world(1), 0, 5)
        for _ in range(2):
            metrics = run.step()
            wrong = {name: value for name, value in metrics.items() if not math.isfinite(value)}
            assert not wrong, f"{choices}: {wrong}"
            assert metrics.get("update/skipped", 0.0) == 0.0, choices
            assert bool(torch.isfinite(run.weights.policy.weight).all()), choices
    except UserError as error:
        return str(error)
    return ""


def everything() -> dict[str, list[str]]:
    """Every part of every place."""
    return {place: sorted(SLOTS[slot].parts) for place, slot in PLACES.items()}


def cover(options: Mapping[str, list[str]], seed: int = 0) -> list[dict[str, str]]:
    """Assignments of every place such that every pair of choices from two places occurs (greedy, deterministic)."""
    rng = random.Random(seed)
    missing = {
        frozenset(pair)
        for a, b in itertools.combinations(options, 2)
        for pair in itertools.product(((a, x) for x in options[a]), ((b, y) for y in options[b]))
    }
    out = []
    while missing:
        best: dict[str, str] = {}
        gain = -1
        for _ in range(8):
            row = dict(rng.choice(sorted(sorted(pair) for pair in missing)))
            for place in rng.sample(sorted(options), len(options)):
                if place not in row:
                    fresh = {x: sum(frozenset({(place, x), c}) in missing for c in row.items()) for x in options[place]}
                    row[place] = max(options[place], key=lambda x, fresh=fresh: (fresh[x], rng.random()))
            found = sum(frozenset(p) in missing for p in itertools.combinations(row.items(), 2))
            if found > gain:
                best, gain = row, found
        missing -= {frozenset(pair) for pair in itertools.combinations(best.items(), 2)}
        out.append(best)
    return out


def test_every_pair_of_parts_takes_a_step_or_is_refused() -> None:
    options = everything()
    alone: dict[Choice, str] = {}
    for place, names in options.items():
        alone |= {(place, name): attempt({place: name}) for name in names}
    refused = {choice: reason for choice, reason in alone.items() if reason}
    assert len(refused) < 0.4 * len(alone), refused
    usable = {place: [n for n in names if not alone[place, n]] for place, names in options.items()}
    rows = cover(usable)
    split = ran = 0
    for row in rows:
        if not attempt(row):
            ran += 1
            continue
        split += 1
        pairs = [dict(pair) for pair in itertools.combinations(row.items(), 2)]
        clashes = [pair for pair in pairs if refusal(pair)] or [pair for pair in pairs if attempt(pair)]
        assert clashes, f"refused together, but no two of them clash: {row}"
        quiet = {place: name for place, name in row.items() if not any(place in pair for pair in clashes)}
        assert not attempt(quiet), f"still refused without {clashes}"
        for place, name in row.items():  # pairs that only met in a refused combination
            if place not in quiet and all({place: name} | {p: n} not in clashes for p, n in quiet.items()):
                assert not attempt(quiet | {place: name}), (quiet, place, name)
    assert ran > 0.3 * len(rows), (ran, split)


@pytest.mark.parametrize("credit", ["gae", "returns", "risk_bundles", "pessimistic_critic"])
@pytest.mark.parametrize(
    "objective", ["policy_gradient", "blend", "supervised", "contrastive", "discriminative", "pairwise"]
)
def test_every_credit_goes_with_every_objective(credit: str, objective: str) -> None:
    method = Algorithm(name="matrix").set({"credit": {"part": credit}, "objective": {"part": objective}} | BASE)
    run = Trainer(BED.adapt(method), BED.world(1), 0, 5)
    start = run.weights.policy.weight.detach().clone()
    for _ in range(2):
        assert all(math.isfinite(value) for value in run.step().values())
    assert not torch.equal(run.weights.policy.weight, start)


def test_what_cannot_work_is_refused_by_name() -> None:
    cases = {
        "needs 'reference'": {"objective.regularise": [{"part": "kl"}], "update.reference": "none"},
        "behaviour": {"objective.trust": "recentred_clip"},
        "expectation zero": {"objective.regularise": [{"part": "kl", "estimator": "k1"}]},
        "greedy=": {"credit.centre": "greedy"},
        "with_experts": {"filter.survival": [{"part": "success_gate"}]},
        "windows": {"credit.select": [{"part": "current_window"}]},
        "sequence ratio": {"update.rules": [{"part": "ess_rate", "ratio": "token"}]},
        "name at least one": {"update.reference": "soup"},
        "start_low": {"objective.trust": {"part": "balanced_clip", "start_low": 1.5}},
    }
    for words, changes in cases.items():
        with pytest.raises(UserError) as refusal:
            Algorithm().set(BASE | changes).check()
        assert words in str(refusal.value) or words.rstrip("=") in str(refusal.value), (words, str(refusal.value))


def test_the_design_covers_every_pair() -> None:
    options = {"a": ["1", "2", "3"], "b": ["x", "y"], "c": ["p", "q", "r", "s"]}
    rows = cover(options)
    for a, b in itertools.combinations(options, 2):
        assert {(r[a], r[b]) for r in rows} == set(itertools.product(options[a], options[b]))
    assert len(rows) < 24
    assert StandardDeviation().part == "std"
