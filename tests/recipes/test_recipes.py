"""Recipes as values, when stages end, and what one hands to the next."""

from __future__ import annotations

import math

import pytest
import torch

from anypo.claims.beds.exact import Testbed
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.recipes import SCORE, Above, Below, Never, Plateau, Recipe, Stage
from anypo.run.settings.config import resolve
from anypo.run.stages import hand_over
from anypo.run.trainer import Trainer
from anypo.systems import find


def rows(*values, name="x"):
    return [{"step": n, name: value} if value is not None else {"step": n} for n, value in enumerate(values, 1)]


@pytest.mark.parametrize(("stop", "found", "over"), [
    (Never(), rows(1.0, 2.0), False),
    (Above(metric="x", value=1.0), rows(0.5, 1.0), True),
    (Above(metric="x", value=1.0), rows(2.0, 0.5), False),
    (Above(metric="x", value=1.0), rows(), False),
    (Above(metric="x", value=1.0), rows(1.0, None, math.nan), True),
    (Above(metric="x", value=1.0, window=2), rows(2.0), False),
    (Above(metric="x", value=1.0, window=2), rows(0.0, 0.5, 1.5), True),
    (Below(metric="x", value=1.0), rows(3.0, 1.0), True),
    (Below(metric="x", value=1.0), rows(0.5, 3.0), False),
    (Plateau(metric="x", window=2, least=0.5), rows(0.0, 0.0, 0.5, 0.5), False),
    (Plateau(metric="x", window=2, least=0.5), rows(0.0, 0.0, 0.4, 0.5), True),
    (Plateau(metric="x", window=2, least=0.5), rows(0.0, 0.0, 0.0), False),
    (Plateau(metric="x", window=2), rows(3.0, 3.0, 1.0, 1.0), True),
    (Plateau(metric="x", window=1, least=0.1, falls=True), rows(3.0, 2.0), False),
    (Plateau(metric="x", window=1, least=0.1, falls=True), rows(2.0, 2.0), True),
    (Plateau(metric="x", window=1, least=0.1, falls=True), rows(2.0, 2.5), True),
    (Above(value=0.5), rows(0.6, name=SCORE), True),
    (Above(metric="stage", value=0.5), [{"stage": "sft"}], False),
])  # fmt: skip
def test_a_stop_looks_at_what_was_recorded(stop, found, over):
    assert stop.reached(found) is over


def test_only_a_held_out_score_costs_evaluations():
    assert Above(value=1.0, every=7).evaluates == 7 and Above(metric="x", value=1.0).evaluates == Never().evaluates == 0


def test_a_recipe_is_a_value():
    recipe = find("sft-then-grpo").recipe()
    assert Recipe.from_dict(recipe.dump()) == recipe
    assert [leg.stage.name for leg in recipe.replace(rounds=2).legs] == ["sft", "grpo"] * 2
    assert recipe.replace(rounds=2).steps == 400 and recipe.acting == recipe.stages[1].algorithm
    changed = recipe.set({"stages.1.algorithm.objective.trust.high": 0.4, "stages.1.algorithm.objective.trust": "clip"})
    assert changed.stages[1].algorithm.objective.trust.high == 0.4
    with pytest.raises(UserError, match="needs stages"):
        Recipe.from_dict({"name": "x"})
    with pytest.raises(UserError, match="is a mapping with a name"):
        Recipe.from_dict({"stages": ["sft"]})
    with pytest.raises(UserError, match="recipe, not a training method"):
        find("sft-then-grpo").algorithm()


def test_a_plain_run_is_a_recipe_of_one_stage():
    config = resolve("grpo", "tiny", steps=3)
    (leg,) = config.plan().legs
    assert leg.stage.steps == 3 and leg.stage.algorithm == config.composition() and "recipe" not in config.model_dump()


def trainer(system, world, changes=None, seed=0):
    method = Testbed().adapt(system).set(changes or {})
    return Trainer(method, World(world.task, world.policy, world.sampler), seed, 4)


def test_a_critic_goes_on_where_it_is_kept_and_begins_anew_where_not():
    world = Testbed().world(0)
    first = trainer("ppo", world)
    first.step()
    learned = [p.detach().clone() for p in first.weights.learners["credit"].parameters()]
    second = trainer("ppo", world, seed=1)
    fresh = [p.detach().clone() for p in second.weights.learners["credit"].parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(learned, fresh))
    hand_over("credit", first, second)
    assert all(torch.equal(a, b) for a, b in zip(learned, second.weights.learners["credit"].parameters()))
    moments = [
        o.state_dict()["state"] for o in (first.weights.optimisers["credit"], second.weights.optimisers["credit"])
    ]
    assert torch.equal(moments[0][0]["exp_avg"], moments[1][0]["exp_avg"]) and moments[0][0]["exp_avg"].abs().max() > 0
    assert not second.weights.optimisers["policy"].state_dict()["state"], "the policy's moments begin anew"


def test_a_reference_is_taken_of_the_policy_as_the_stage_finds_it_unless_it_is_kept():
    world, changes = Testbed().world(0), {"update.reference": "frozen", "objective.regularise": [{"part": "kl"}]}
    first = trainer("grpo", world, changes)
    initial = first.weights.references["ref"].log_table().clone()
    first.step()
    second = trainer("grpo", world, changes, seed=1)
    assert torch.equal(second.weights.references["ref"].log_table(), world.policy.log_table())
    hand_over("ref", first, second)
    assert torch.equal(second.weights.references["ref"].log_table(), initial)


def test_memory_and_shelf_are_handed_over():
    world = Testbed().world(0)
    first, second = trainer("spo-single-stream", world), trainer("spo-single-stream", world, seed=1)
    first.step()
    before = second.memory.state_dict()
    hand_over("shelf", first, second)
    assert str(second.memory.state_dict()) != str(before)
    assert str(second.memory.shelf.state_dict()) == str(first.memory.shelf.state_dict())


def test_a_stage_with_another_kind_of_policy_cannot_keep_it():
    recipe = find("sft-then-grpo").recipe().set({"stages.1.algorithm.policy": "mlp"})
    with pytest.raises(UserError, match="leave 'policy' out of its keeps"):
        recipe.check()


def test_stages_have_names_of_their_own_and_at_least_a_step():
    with pytest.raises(UserError, match="two stages are called 'a'"):
        Recipe.make({"stages": (Stage(name="a"), Stage(name="a"))})
    with pytest.raises(UserError, match="'steps' = 0"):
        Stage.make({"name": "a", "steps": 0})
