"""Recipes on the enumerable policy: the registered stages, one after another, with what each hands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.exact import ExactTask, StateGraph, patterns, truth
from anypo.exact.policy import LETTERS
from anypo.generate.base import World
from anypo.recipes import SCORE, Recipe
from anypo.run.stages import hand_over
from anypo.run.trainer import Trainer

Adapt = Callable[[Algorithm], Algorithm]


def imperfect(graph: StateGraph) -> ExactTask:
    """One string is worth 1, the worked solution misses its last letter that counts and is worth a half, all else 0: what
    imitation alone cannot pass, and what trial alone hardly meets."""
    task = patterns(graph, 4, "sparse")
    reward, targets = task.reward.clone(), []
    for prompt, target in enumerate(task.targets):
        state, token = (int(index) for index in task.reward[prompt].nonzero()[0])
        other = token % (graph.vocabulary - 1) + 1
        reward[prompt, state, other] = 0.5
        place = int(graph.depth()[state])
        targets.append(target[:place] + LETTERS[other - 1])
    return dataclasses.replace(task, reward=reward, targets=tuple(targets))


def train_recipe(recipe: Recipe, bed: Testbed, seed: int) -> tuple[list[float], list[int]]:
    """Exact expected reward at the start and after every step of all stages, and the steps each stage took. A stage that ends by a
    held-out score is given the exact one."""
    world = bed.world(seed)
    value = lambda: _value(world)
    values, lengths, before = [value()], [], None
    for leg in recipe.legs:
        stage = leg.stage
        here = World(world.task, world.policy, world.sampler)
        trainer = Trainer(stage.algorithm, here, seed + 1000 * leg.number, stage.steps)
        if before is not None:
            for name in recipe.stages[(leg.number - 1) % len(recipe.stages)].keeps:
                hand_over(name, before, trainer)
        rows: list[dict[str, float]] = []
        while trainer.number < stage.steps and not stage.until.reached(rows):
            metrics = trainer.step()
            values.append(value())
            asked = stage.until.evaluates
            rows.append(metrics | ({SCORE: values[-1]} if asked and trainer.number % asked == 0 else {}))
        lengths.append(trainer.number)
        before = trainer
    return values, lengths


def _value(world: World) -> float:
    policy = world.policy
    with torch.no_grad():
        return float(truth.value(policy.log_table(), world.task.reward, policy.graph).mean())  # type: ignore[attr-defined]
