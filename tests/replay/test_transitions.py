"""Transitions from a ring, from a data set, and from both: how many of which, what is kept, and what goes on after a restart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from anypo.context import Context
from anypo.data.transitions import Arrays
from anypo.errors import UserError
from anypo.generate.base import World, check_task
from anypo.policies.classes import Wanted
from anypo.run.acting import Acting
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask

MARK = 1000.0
"""A reward that no environment pays: recorded transitions are known by it."""


class Marked(GymTask):
    def __init__(self, count: int = 50) -> None:
        super().__init__("Pendulum-v1")
        rng = np.random.default_rng(0)
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
        action = np.linspace(-2, 2, count, dtype=np.float32)[:, None]
        reward, ends = np.full(count, MARK, dtype=np.float32), np.zeros(count, dtype=np.float32)
        self.arrays = Arrays(draw(count, 3), action, draw(count, 3), reward, ends)

    def transitions(self) -> Arrays:
        return self.arrays


SMALL = {"policy.hidden": [32, 32], "credit.hidden": [32, 32], "replay.batch": 16}
MIXED = {**SMALL, "generate.steps": 8, "replay.begin": 8, "generate.act.warmup": 4, "replay.share": 0.25}
OFFLINE = {**SMALL, "replay.updates": 3}


def trainer(name: str, changes: dict, task: GymTask | None = None) -> Trainer:
    algorithm, task = find(name).algorithm().set(changes), task or Marked()
    return Trainer(algorithm, World(task, algorithm.policy.build(Wanted(task, seed=1)), Acting()), 3, 6)


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for path in run.weights.learners.values() for p in path.parameters()])


def test_a_mixed_batch_has_its_share_of_recorded_transitions_and_the_ring_none() -> None:
    run = trainer("sac", MIXED)
    for _ in range(3):
        run.step()
    batch = run.batch
    recorded = batch["step_reward"] == MARK
    assert int(recorded.sum()) == 4 and len(batch) == 16
    sent = {round(float(a), 5) for a in run.world.task.transitions().action[:, 0] / 2}  # type: ignore[attr-defined]
    assert {round(float(a), 5) for a in batch["action"][recorded][:, 0]} <= sent  # in the policy's units
    ring = run.memory.states["replay"]["ring"]
    assert ring.size == 24 and (ring.arrays.reward[:24] != MARK).all()


def test_without_a_share_nothing_changes() -> None:
    plain = {**MIXED, "replay.share": 0.0}
    with_data, without = trainer("sac", plain), trainer("sac", plain, GymTask("Pendulum-v1"))
    with_data.world.task.name = without.world.task.name
    for _ in range(2):
        with_data.step(), without.step()
    assert torch.equal(weights(with_data), weights(without))


def test_offline_batches_are_uniform_draws_and_nothing_is_tried() -> None:
    run = trainer("td3-bc", {**OFFLINE, "replay.updates": 40})
    counts = np.zeros(50)
    seen = run.algorithm.replay.batches
    for step in range(5):
        for batch in seen([], 0, Context(step, 6, run.seed, run.memory, world=run.world)):
            places = np.rint((batch["action"][:, 0].numpy() + 1) / 2 * 49).astype(int)
            counts += np.bincount(places, minlength=50)
    expected = counts.sum() / 50
    assert counts.sum() == 5 * 40 * 16
    assert ((counts - expected) ** 2 / expected).sum() < 85.4  # chi-squared with 49 degrees of freedom, p = 0.001
    metrics = run.step()
    assert metrics["replay/size"] == 50 and not run.groups and run.weights.steps == 40


@pytest.mark.parametrize(("name", "changes"), [("td3-bc", OFFLINE), ("sac", MIXED)], ids=["offline", "mixed"])
def test_a_restored_run_ends_where_the_uninterrupted_one_does(name: str, changes: dict) -> None:
    whole, first = trainer(name, changes), trainer(name, changes)
    for _ in range(5):
        whole.step()
    for _ in range(2):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second = trainer(name, changes)
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    assert torch.equal(weights(whole), weights(second))


def test_a_checkpoint_holds_no_recorded_transition() -> None:
    run = trainer("td3-bc", OFFLINE)
    run.step()
    assert "replay" not in run.state_dict()["memory"]


@pytest.mark.parametrize("changes", [{"replay": "recorded"}, {"replay.share": 0.5}])
def test_a_task_without_data_is_refused(changes: dict) -> None:
    with pytest.raises(UserError, match="name a Minari data set"):
        check_task(find("sac").algorithm().set(changes).replay, GymTask("Pendulum-v1"))


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="leaves one side without a transition"):
        find("sac").algorithm().set({"replay.share": share, "replay.batch": 16}).check()
