"""TD3 with behaviour cloning: every number of an update against the same update written plainly."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from anypo.context import Context
from anypo.data.transitions import Arrays
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.acting import Acting
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask


class Remembered(GymTask):
    """An environment with transitions of no environment in particular."""

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        super().__init__("Pendulum-v1")
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
        ends = (rng.random(count) < 0.3).astype(np.float32)
        wide = np.array([1.0, 5.0, 0.01], dtype=np.float32)
        self.arrays = Arrays(
            3 + wide * draw(count, 3), 2 * np.tanh(draw(count, 1)), 3 + draw(count, 3), draw(count), ends
        )

    def transitions(self) -> Arrays:
        return self.arrays


def trainer(task: GymTask | None = None, **changes: object) -> Trainer:
    small = {"replay.updates": 4, "replay.batch": 16, "policy.hidden": [32, 32], "credit.hidden": [32, 32]}
    more = {key.replace("__", "."): value for key, value in changes.items()}
    algorithm, task = find("td3-bc").algorithm().set({**small, **more}), task or Remembered()
    return Trainer(algorithm, World(task, algorithm.policy.build(Wanted(task, seed=1)), Acting()), 3, 4)


def plain(network, x, member=0):
    for depth, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        x = (torch.relu(x) if depth else x) @ weight[member] + bias[member]
    return x


@pytest.mark.exact("td3-bc")
@pytest.mark.parametrize("alpha", [2.5, 0.0])
def test_updates_are_those_of_the_paper(alpha: float) -> None:
    """Four of them: standardised observations, targets of lagged networks, a critic step, and in every second one the actor's
    step and the averages. The third is the first whose target tells the lagged actor from the live one."""
    run = trainer(objective__alpha=alpha)
    arrays = run.world.task.transitions()  # type: ignore[attr-defined]
    mean, spread = arrays.observation.astype(np.float64).mean(0), arrays.observation.astype(np.float64).std(0) + 1e-3
    see = lambda o: torch.from_numpy(((o - mean) / spread).astype(np.float32))
    s, s2 = see(arrays.observation), see(arrays.observation_next)
    a, r, d = (torch.from_numpy(x) for x in (arrays.action / 2, arrays.reward, arrays.terminated))
    rows = arrays.replace(action=arrays.action / 2).batch()
    actor, critic = (copy.deepcopy(run.weights.learners[path].body) for path in ("policy", "credit"))
    lagged, target = copy.deepcopy(actor), copy.deepcopy(critic)
    adam = {net: torch.optim.Adam(net.parameters(), lr=3e-4) for net in (actor, critic)}
    q = lambda net, x, act: [plain(net, torch.cat([x, act], -1), e).squeeze(-1) for e in range(2)]
    scale = torch.zeros(())
    for number in range(4):
        context = Context(0, 4, 3, run.memory)
        batch = run.weights.prepare(rows, context)
        blur = (0.2 * batch["noise@next"]).clamp(-0.5, 0.5)
        run.algorithm.update.apply(run.algorithm.credit.assign(batch, context), run.weights, context)
        with torch.no_grad():
            after = (torch.tanh(plain(lagged, s2)) + blur).clamp(-1, 1)
            y = r + 0.99 * (1 - d) * torch.minimum(*q(target, s2, after))
        adam[critic].zero_grad()
        (0.5 * sum(((value - y) ** 2).mean() for value in q(critic, s, a))).backward()
        adam[critic].step()
        if not number % 2:
            continue
        pi = torch.tanh(plain(actor, s))
        value = q(critic, s, pi)[0]
        scale = alpha / value.abs().mean().detach()
        adam[actor].zero_grad()
        (-scale * value.mean() + torch.nn.functional.mse_loss(pi, a)).backward()
        adam[actor].step()
        with torch.no_grad():
            for kept, now in ((lagged, actor), (target, critic)):
                for mine, theirs in zip(kept.parameters(), now.parameters()):
                    mine.copy_(0.995 * mine + 0.005 * theirs)
    assert context.metrics["objective/scale"] == pytest.approx(float(scale), rel=1e-4)
    close = lambda mine, theirs: torch.testing.assert_close(
        list(mine.parameters()), list(theirs.parameters()), rtol=1e-4, atol=2e-6
    )
    close(run.weights.learners["credit"].body, critic)
    close(run.weights.policy.body, actor)
    for name, kept in (("lagged", lagged), ("target", target)):
        for mine, theirs in zip(run.weights.references[name].body.parameters(), kept.parameters()):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=2e-8)


def test_defaults_are_those_of_the_authors_runs() -> None:
    """github.com/sfujim/TD3_BC, main.py: a batch of 256, discount 0.99, tau 0.005 and the actor in every second step, noise 0.2
    clipped at 0.5 (actions in [-1, 1]), alpha 2.5, and 3e-4 for actor and critics."""
    method = find("td3-bc").algorithm()
    assert (method.replay.batch, method.credit.gamma, method.credit.optimiser.lr) == (256, 0.99, 3e-4)
    assert [(kept.decay, kept.every) for kept in method.update.references] == [(0.995, 2)] * 2
    assert (method.objective.alpha, method.objective.every, method.update.optimiser.lr) == (2.5, 2, 3e-4)
    assert (method.policy.smoothing, method.policy.limit, method.policy.hidden) == (0.2, 0.5, (256, 256))
    assert math.isinf(method.update.max_grad_norm) and method.update.optimiser.weight_decay == 0


def test_the_distance_is_the_mean_over_dimensions_of_the_action() -> None:
    class Values:
        def fill(self, batch, names):
            return {"q": torch.stack([batch["action"].sum(1), -batch["action"].sum(1)], 1)}

    made, fresh = torch.tensor([[0.1, -0.2, 0.4], [0.5, 0.5, -1.0]]), torch.tensor([[0.3, 0.0, 0.0], [-0.1, 0.2, 0.7]])
    batch = Arrays(np.zeros((2, 1)), made.numpy(), np.zeros((2, 1)), np.zeros(2), np.zeros(2)).batch()
    context = Context(1, 4, 0, trainer().memory)
    context.nets = {"credit": Values()}
    loss = find("td3-bc").algorithm().objective.loss(batch.with_rows(**{"action@new": fresh}), context)
    value = fresh.sum(1)
    expected = torch.nn.functional.mse_loss(fresh, made) - 2.5 / value.abs().mean() * value.mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_the_noise_at_the_next_observation_is_bounded() -> None:
    actor = find("td3-bc").algorithm().policy.build(Wanted(Remembered(), seed=1))
    far = torch.tensor([[9.0], [-9.0], [1.0]])
    batch = Remembered(3).transitions().batch()
    still = actor.fill(batch.with_rows(**{"noise@next": torch.zeros(3, 1)}), ["action@next"], False)["action@next"]
    moved = actor.fill(batch.with_rows(**{"noise@next": far}), ["action@next"], False)["action@next"]
    expected = (still + torch.tensor([[0.5], [-0.5], [0.2]])).clamp(-1, 1)
    torch.testing.assert_close(moved, expected)


def test_the_actor_loss_is_finite_where_every_value_is_nothing() -> None:
    run = trainer()
    with torch.no_grad():
        for p in run.weights.learners["credit"].parameters():
            p.zero_()
    context = Context(1, 4, 3, run.memory)
    batch = run.weights.prepare(run.world.task.transitions().batch(), context)  # type: ignore[attr-defined]
    owned = [owned for owned in run.weights.fits if owned.path == "policy"]
    pull = run.weights.differentiate(run.algorithm.credit.assign(batch, context), owned, False, context)
    assert pull.finite


@pytest.mark.exact("td3-bc")
def test_cloning_comes_to_the_mean_of_what_was_done() -> None:
    """alpha = 0, one observation, two actions: the actor's action is their mean, whatever they earned."""
    task = Remembered(4)
    same = np.ones((4, 3), dtype=np.float32)
    action = np.array([[-0.4], [1.2], [-0.4], [1.2]], dtype=np.float32)  # of the environment, whose bounds are -2 and 2
    task.arrays = task.arrays.replace(observation=same, action=action)
    run = trainer(task, objective__alpha=0.0, objective__every=1, replay__updates=120, update__optimiser__lr=0.02)
    run.step()
    assert float(run.weights.policy.best(same[:1])[0, 0]) == pytest.approx(0.2, abs=0.06)


def test_the_statistics_are_saved_with_the_weights(tmp_path) -> None:
    run = trainer()
    run.step()
    run.weights.policy.save(tmp_path)
    bare = GymTask("Pendulum-v1")  # has no data, and needs none
    again = run.algorithm.policy.open(Wanted(bare, seed=7), str(tmp_path))
    seen = run.world.task.transitions().observation[:5]  # type: ignore[attr-defined]
    assert np.array_equal(again.best(seen), run.weights.policy.best(seen)) and not np.allclose(again.norm.mean, 0)
    with pytest.raises(UserError, match=r"set policy.normalise=false"):
        run.algorithm.policy.build(Wanted(bare))
