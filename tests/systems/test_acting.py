"""Every named method does, on a task of its own kind, what its base would not; or its registration says why not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import golden_beds
import pytest

from anypo.algorithm import Algorithm
from anypo.claims.acts import follow
from anypo.claims.beds.words import TextTask, question, warm
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.run.settings.presets import has_path
from anypo.systems import find, methods

SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(6) for b in range(6))

SIZES: Mapping[str, Any] = {"control.prompts": 4, "generate.max_new": 4, "update.optimiser.lr": 3e-3}
"""Sizes only: how many updates a batch has, how old it is and what a part may do are the method's own."""

ELSEWHERE = {
    "dpo": "learns from a file of pairs",
    "dapo-direct": "learns offline, from what it wrote once",
    "sac": "learns from transitions; its base is none",
    "td3": "learns from transitions: no column of its base is filled, which the run says",
    "td3-bc": "learns from transitions: no column of its base is filled, which the run says",
    "deep-ga": "takes no gradient; its base is none",
}
"""Methods that no run here can feed, or whose base cannot be held against them."""

APART = {"opsd"}
"""Methods that are compared with no base, since they fill none of its columns: they act by what they are."""

WORLDS = {
    "a2fm-apo",
    "adora",
    "ipa-chunk",
    "coderl-plus",
    "cog-rethinker",
    "fapo",
    "gdpo",
    "ghpo",
    "gliclass-ppo",
    "gtpo-conflict",
    "guide-grpo",
    "nudgerl",
    "op-mix",
    "otc-po",
    "polychromic",
    "r3l",
    "salsa",
    "pope",
    "sage-hint",
    "scaf-grpo",
    "scope-rlvr",
    "sophia",
    "training-free-grpo",
    "trpo",
    "urpa",
}
"""Methods whose own kind of task is that of their golden run."""


@lru_cache(maxsize=1)
def policies() -> Any:
    return warm([(p.messages[0]["content"], p.answer) for p in SUMS], 60, 0)


def place(name: str) -> tuple[Algorithm, World]:
    """The method in its own regime, and a world of its kind."""
    algorithm = find(name).algorithm()
    if name not in WORLDS:
        policy = policies()()
        task = TextTask(SUMS, lambda p, text: float(text.strip() == p.answer))
        sizes = {path: value for path, value in SIZES.items() if has_path(algorithm, path)}
        sizes["control.samples"] = min(algorithm.control.samples, 8)
        return algorithm.set(sizes), World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]
    run = golden_beds.runs()[name]
    adapted, world = run.world(algorithm, run.bed)
    own = ("update.epochs", "update.minibatches_per_epoch")
    regime = {path: algorithm.dump()["update"][path.split(".")[1]] for path in own if has_path(algorithm, path)}
    return adapted.set(run.set).set(regime), world


@pytest.mark.parametrize("name", sorted(methods().keys() - ELSEWHERE.keys()))
def test_a_method_acts(name: str) -> None:
    found = follow(*place(name), total=20)
    if "acts" in find(name).excuses:
        assert not found["acts"], f"{found['said']}: it has no need of its excuse"
        return
    assert found["acts"] or (found["acts"] is None and name in APART), f"{found['said']}; idle: {found['idle']}"


def test_the_lists_name_methods() -> None:
    assert ELSEWHERE.keys() | WORLDS | APART <= methods().keys()


def test_what_is_compared_with_no_base_acts_where_its_weights_move() -> None:
    algorithm, world = place("opsd")
    found = follow(algorithm, world, total=20)
    assert found["acts"] is None and found["first"] == 1 and "its weights move from step 1 on" in found["said"]
    algorithm, world = place("opsd")
    found = follow(algorithm.set({"update.optimiser.lr": 0.0}), world, total=20, steps=2)
    assert found["acts"] is False and found["first"] == 0 and "its weights did not move in 2 steps" in found["said"]


def test_a_soup_of_the_policy_alone_is_the_frozen_reference() -> None:
    algorithm, world = place("salsa")
    found = follow(algorithm.set({"update.reference.own": 1.0}), world, total=20, steps=2)
    assert found["acts"] is False and not found["rooms"]
