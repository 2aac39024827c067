"""The exact properties of `anypo.systems.recipes.imitation_first`, as the sources state them."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import pytest
import torch
from stepping import PLAIN, assert_descended, log_probabilities
from torch import Tensor

from anypo.claims.beds.exact import Testbed
from anypo.data.batch import Batch
from anypo.data.records import DEMO
from anypo.generate.base import World
from anypo.recipes import SCORE
from anypo.run.stages import hand_over
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=3, prompts=4, batch=4, group=6)


@pytest.mark.exact("sft-then-grpo")
def test_the_recipe_descends_on_the_likelihood_of_solutions_and_from_there_on_grpos_loss() -> None:
    """Every step of both stages against a loss written by hand, each from the weights that the one before it left. The second stage
    begins with the very policy of the first, and with an optimiser that has seen nothing of it."""
    first, second = find("sft-then-grpo").recipe().stages
    world = BED.world(3)
    policy, run = world.policy, None
    for stage, own in ((first, {"replay.examples": 4}), (second, {"control.samples": 6})):
        here, before_run = World(world.task, policy, world.sampler), run
        run = Trainer(BED.adapt(stage.algorithm).set({**PLAIN, **own}), here, 3, 4)
        for name in first.keeps if before_run is not None else ():
            hand_over(name, before_run, run)
        assert run.world.policy is policy and not run.weights.optimisers["policy"].state_dict()["state"]
        for _ in range(3):
            before = copy.deepcopy(policy)
            run.step()
            batch = run.batch
            assert batch is not None

            taught = all(t.guidance == DEMO for t in batch.trajectories)
            assert taught == (stage is first)
            loss = likelihood(before, batch) if taught else grpo(before, batch)
            assert_descended(before, policy, loss)


def likelihood(policy: Any, batch: Batch) -> Tensor:
    """Minus the mean log-probability of all tokens."""
    return -torch.cat([log_probabilities(policy, t) for t in batch.trajectories]).mean()


def grpo(policy: Any, batch: Batch) -> Tensor:
    """Mean over rollouts of their token means, rewards standardised in their group."""
    terms = []
    for t in batch.trajectories:
        rewards = [o.reward for o in batch.trajectories if o.prompt == t.prompt]
        scaled = (t.reward - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-6)
        now = log_probabilities(policy, t)
        terms.append(-(scaled * (now - now.detach()).exp()).mean())
    return torch.stack(terms).mean()


@pytest.mark.exact("sft-then-grpo")
@pytest.mark.parametrize(
    ("scores", "steps"), [([0.1, 0.24, 0.25], 30), ([0.9], 10), ([], 100), ([0.0] * 20, 100), ([float("nan"), 0.3], 20)]
)
def test_imitation_ends_with_the_first_score_of_a_quarter(scores: list[float], steps: int) -> None:
    """A held-out score every ten steps, by hand: the stage is over at its hundredth step or where a quarter is solved."""
    first = find("sft-then-grpo").recipe().stages[0]
    assert first.until.evaluates == 10
    rows: list[dict[str, float]] = []
    while len(rows) < first.steps and not first.until.reached(rows):
        known = len(rows) // 10
        asked = (len(rows) + 1) % 10 == 0 and known < len(scores)
        rows.append({"step": len(rows) + 1.0} | ({SCORE: scores[known]} if asked else {}))
    assert len(rows) == steps
