"""Gymnasium rollouts, bootstrapped credit and scattered decisions against plain loops; PPO learns CartPole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.control import ControlBed, learn, score
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.credit.critics.gae import GAE
from anypo.credit.select.scatter import Scatter
from anypo.data.batch import Batch
from anypo.data.records import TRUNCATED
from anypo.errors import UserError
from anypo.exact import EnumerablePolicy, EnumerableSampler, patterns, tree
from anypo.generate.base import World
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.run.acting import control_world
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.tasks.gym import GymTask
from anypo.update.weights import Weights

FAST = ControlBed(environments=8, steps=32, epochs=20, minibatches=1, lr=1e-3, gamma=0.98, lam=0.8)


def collect(world, algorithm, memory=None, step=0):
    context = Context(step, 10, 0, memory or Memory(algorithm))
    return algorithm.generate.rollout([Ask(0, 1)], world, context), context


def steps(environments, count):
    return Algorithm(generate=EnvironmentSteps(environments=environments, steps=count))


def test_stretches_go_on_and_end_as_they_should():
    world = control_world("CartPole-v1", options={"max_episode_steps": 30})
    algorithm = steps(3, 70)
    memory = Memory(algorithm)
    first, context = collect(world, algorithm, memory)
    stretches = [g.trajectories[0] for g in first]
    assert sum(len(t) for t in stretches) == 210 and context.metrics["episode/return"] > 5
    for t in stretches:
        assert t.reward == pytest.approx(t.step_rewards.sum()) and len(t) <= 30
        assert t.content.observations.shape == (len(t), 4) and t.content.last.shape == (4,)
        fallen = abs(t.content.last[2]) > 0.2095 or abs(t.content.last[0]) > 2.4
        assert t.content.terminated == fallen and (t.finish == TRUNCATED) == (not fallen)
    tails = {t.sample: t for t in stretches}  # the last stretch of each environment
    assert all(t.finish == TRUNCATED for t in tails.values() if len(t) < 30 and not t.content.terminated)
    second, _ = collect(world, algorithm, memory, step=1)
    heads = {}
    for g in second:
        heads.setdefault(g.trajectories[0].sample, g.trajectories[0])
    went_on = [s for s in range(3) if np.allclose(tails[s].content.last, heads[s].content.observations[0])]
    assert went_on  # an episode cut by the end of the rollout continues where it was


def test_log_probabilities_are_those_of_the_policy():
    for name in ("CartPole-v1", "Pendulum-v1"):
        world = control_world(name, seed=1)
        groups, _ = collect(world, steps(2, 40))
        batch = Batch.pack(groups)
        filled = world.policy.fill(batch, {"logp"}, grad=False)["logp"]
        assert torch.allclose(filled, batch["logp_behaviour"], atol=1e-5)


def test_bootstrapped_gae_is_that_of_a_plain_loop():
    world = control_world("CartPole-v1", seed=3, options={"max_episode_steps": 25})
    credit = GAE(gamma=0.9, lam=0.7, truncated="bootstrap", whiten=False)
    algorithm = Algorithm(generate=EnvironmentSteps(environments=4, steps=60), credit=credit)
    weights = Weights(algorithm, world.policy, 0)
    critic = weights.learners["credit"]
    with torch.no_grad():
        critic.body[-1].bias.fill_(2.0)
    groups, context = collect(world, algorithm)
    batch = algorithm.credit.assign(weights.fill(Batch.pack(groups)), context)
    expected = []
    for g in groups:
        t = g.trajectories[0]
        values = critic.values(np.concatenate([t.content.observations, t.content.last[None]])).astype(float)
        values[-1] *= not t.content.terminated
        running, out = 0.0, []
        for k in reversed(range(len(t))):
            running = t.step_rewards[k] + 0.9 * values[k + 1] - values[k] + 0.9 * 0.7 * running
            out.insert(0, running)
        expected += out
    assert np.allclose(batch["advantage"].numpy(), expected, atol=1e-4)
    assert any(g.trajectories[0].finish == TRUNCATED for g in groups) and any(
        g.trajectories[0].content.terminated for g in groups
    )


def test_scattering_changes_nothing_but_the_grouping():
    world = control_world("CartPole-v1", seed=3)
    groups, context = collect(world, steps(2, 30))
    whole = Batch.pack(groups)
    whole = whole.with_rows(advantage=torch.randn(len(whole), generator=torch.Generator().manual_seed(0)))
    single = Scatter().select(whole, context)
    assert single.n_sequences == single.n_groups == len(whole) and bool((single.sequences["length"] == 1).all())
    gradients = []
    for batch in (whole, single):
        world.policy.zero_grad()
        (world.policy.fill(batch, {"logp"}, grad=True)["logp"] * batch["advantage"]).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in world.policy.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6) and float(gradients[0].norm()) > 0
    part = single.select(torch.tensor([5, 2]))
    assert torch.equal(
        world.policy.fill(part, {"logp"}, grad=False)["logp"],
        world.policy.fill(single, {"logp"}, grad=False)["logp"][[5, 2]],
    )


def test_ppo_learns_cartpole():
    curve, trainer = learn("ppo", FAST, 6000, 1)
    assert np.nanmean(curve[-5:]) > 2 * np.nanmean(curve[:3])
    assert score(trainer, 3, 0) > 60


def test_scattered_minibatches_and_normalised_observations_run():
    bed = FAST.replace(environment="Pendulum-v1", steps=16, epochs=2, minibatches=4)
    curve, trainer = learn("ppo", bed, 600, 0)
    assert len(curve) == 5 and trainer.weights.policy.version == 5 * 2 * 4
    normalised = control_world("Pendulum-v1", normalise=True)
    algorithm = steps(2, 20)
    memory = Memory(algorithm)
    for step in range(2):
        groups, _ = collect(normalised, algorithm, memory, step)
    assert float(normalised.policy.norm.count) == 40
    assert torch.allclose(
        normalised.policy.fill(Batch.pack(groups), {"logp"}, grad=False)["logp"],
        Batch.pack(groups)["logp_behaviour"],
        atol=1e-5,
    )


def test_bad_environments_are_refused():
    with pytest.raises(UserError, match="cannot make"):
        GymTask("CartPoll-v1")
    with pytest.raises(UserError, match="Box"):
        GymTask("FrozenLake-v1")
    graph = tree(3, 2)
    policy = EnumerablePolicy(graph, 1)
    world = World(patterns(graph, 1), policy, EnumerableSampler(policy))
    with pytest.raises(UserError, match="Gymnasium"):
        collect(world, Algorithm(generate=EnvironmentSteps()))
    cartpole = control_world("CartPole-v1")
    with pytest.raises(UserError, match="actions instead of text"):
        collect(cartpole, Algorithm())


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5"])
def test_a_control_run_goes_on_exactly_in_a_new_world(name, tmp_path):
    """Trainer and world through a checkpoint: the next steps collect the same floats as without a break."""

    def begun() -> Trainer:
        return Trainer(ControlBed(name, environments=3, steps=50, epochs=1).adapt("ppo"), control_world(name, 1), 1, 4)

    def seen(trainer: Trainer) -> list[tuple[bytes, ...]]:
        trainer.step()
        each = [t for group in trainer.groups for t in group.trajectories]
        return [(t.content.observations.tobytes(), t.content.actions.tobytes(), t.step_rewards.tobytes()) for t in each]

    whole = begun()
    seen(whole)
    checkpoint.save(tmp_path / "c", 1, {"trainer": whole.state_dict(), "world": whole.world.state_dict()})
    wanted = [seen(whole), seen(whole)]
    other, saved = begun(), checkpoint.load(tmp_path / "c")
    other.load_state_dict(saved["trainer"])
    other.world.load_state_dict(saved["world"])
    assert [seen(other), seen(other)] == wanted
