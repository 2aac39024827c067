"""Deep GA in the real loop: it finds a policy for CartPole, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import copy

import torch

from anypo.run.acting import control_world
from anypo.run.settings.config import resolve
from anypo.run.trainer import Trainer
from anypo.systems import find


def trainer(seed: int = 1, **changes: object) -> Trainer:
    algorithm = (
        find("deep-ga")
        .algorithm()
        .set({"control.prompts": 8, "update.parents": 3, "generate.candidates": 2, "generate.again": 2, **changes})
    )
    return Trainer(algorithm, control_world("CartPole-v1", seed, hidden=(8,)), seed, 6)


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    whole = trainer()
    metrics = [whole.step() for _ in range(2)]
    saved = copy.deepcopy(whole.state_dict())
    metrics += [whole.step() for _ in range(2)]
    resumed = trainer()
    resumed.load_state_dict(saved)
    again = [resumed.step() for _ in range(2)]
    for old, new in zip(metrics[2:], again):
        assert old["update/fitness"] == new["update/fitness"] and old["episode/return"] == new["episode/return"]
    assert whole.memory.state_dict() == resumed.memory.state_dict()
    mine, theirs = whole.weights.policy.state_dict(), resumed.weights.policy.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_selection_raises_what_the_population_earns() -> None:
    run = trainer(seed=2)
    fitness = [run.step()["update/fitness"] for _ in range(5)]
    assert max(fitness[3:]) > fitness[0] + 20, fitness


def test_a_generation_is_small_on_disk_and_builds_no_optimiser() -> None:
    run = trainer()
    run.step()
    state = run.state_dict()
    assert not state["weights"]["optimisers"]
    update = state["memory"]["update"]
    assert update["generation"] == 1 and [len(seeds) for seeds in update["parents"]] == [1, 1, 1]
    assert update["elite"] == update["parents"][0]


def test_an_environment_leaves_its_rooms_as_they_are() -> None:
    config = resolve("deep-ga", None, task="CartPole-v1")
    assert config.composition() == find("deep-ga").algorithm()
    assert config.steps == 20 and config.model == "mlp"
