"""SAC and TD3: every number of one update against the same update written plainly, and the ring they draw from."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from anypo.context import Context
from anypo.data.transitions import Arrays, Ring
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.run.acting import Acting
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask


def trainer(name: str, total: int = 4, **changes: object) -> Trainer:
    small = {"generate.steps": 8, "replay.begin": 8, "replay.batch": 16, "generate.act.warmup": 4}
    algorithm = find(name).algorithm().set({**small, **{key.replace("__", "."): v for key, v in changes.items()}})
    task = GymTask("Pendulum-v1")
    return Trainer(algorithm, World(task, algorithm.policy.build(Wanted(task, seed=1)), Acting()), 3, total)


def batch_of(count: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    ends = (rng.random(count) < 0.3).astype(np.float32)
    return Arrays(draw(count, 3), np.tanh(draw(count, 1)), draw(count, 3), draw(count), ends)


def layers(network, x, member=None):
    for depth, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        place = 0 if member is None else member
        x = (torch.relu(x) if depth else x) @ weight[place] + bias[place]
    return x


RATE = {"adamw": 3e-4, "sgd": 1.0}
PLAIN = {"adamw": torch.optim.Adam, "sgd": torch.optim.SGD}
"""Adam's first step forgets how large a gradient is; plain descent shows every factor of a loss."""


@pytest.mark.exact("sac")
@pytest.mark.parametrize("optimiser", PLAIN)
def test_one_update_of_sac_is_the_textbooks(optimiser: str) -> None:
    """Target, critic step, actor step, temperature step and average, with a plain optimiser and plain autograd on copies. alpha is
    not 1, where log alpha is 0 and hides what it multiplies."""
    given = {"part": optimiser, "lr": RATE[optimiser]}
    run = trainer(
        "sac", update__optimiser=given, credit__optimiser=given, objective__temperature__optimiser=given,
        objective__temperature__initial=0.3,
    )  # fmt: skip
    weights = run.weights
    actor, critic, alpha = (
        copy.deepcopy(learner)
        for learner in (weights.policy, weights.learners["credit"], weights.learners["objective.temperature"])
    )
    target = copy.deepcopy(weights.references["target"])
    arrays = batch_of(16)
    context = Context(0, 4, 3, run.memory)
    batch = weights.prepare(arrays.batch(), context)
    noise = {view: batch[f"noise@{view}"] for view in ("new", "next")}
    assert not torch.equal(noise["new"], noise["next"]), "every view has a draw of its own"
    batch = run.algorithm.credit.assign(batch, context)
    run.algorithm.update.apply(batch, weights, context)

    s, a, s2, r, d = (
        torch.from_numpy(getattr(arrays, n))
        for n in ("observation", "action", "observation_next", "reward", "terminated")
    )

    def draw(net, x, eps):
        mean, log_std = layers(net.body, x).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        u = mean + log_std.exp() * eps
        normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        return torch.tanh(u), (normal - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)).sum(-1)

    q = lambda net, x, act: [layers(net.body, torch.cat([x, act], -1), e).squeeze(-1) for e in range(2)]
    with torch.no_grad():
        a2, logp2 = draw(actor, s2, noise["next"])
        y = r + 0.99 * (1 - d) * (torch.minimum(*q(target, s2, a2)) - alpha.log.exp() * logp2)
    torch.testing.assert_close(batch["target"], y)
    temperature = float(alpha.log.detach().exp())
    plain = lambda net: PLAIN[optimiser](net.parameters(), lr=RATE[optimiser])
    descent = plain(critic)
    (0.5 * sum(((value - y) ** 2).mean() for value in q(critic, s, a))).backward()
    descent.step()
    descent = plain(actor)
    fresh, logp = draw(actor, s, noise["new"])
    (temperature * logp - torch.minimum(*q(critic, s, fresh))).mean().backward()
    descent.step()
    descent = plain(alpha)
    (-(alpha.log * (logp.detach() - 1.0)).mean()).backward()
    descent.step()
    close = lambda mine, theirs: torch.testing.assert_close(
        list(mine.parameters()), list(theirs.parameters()), rtol=1e-4, atol=2e-6
    )
    close(weights.learners["credit"], critic)
    close(weights.policy, actor)
    close(weights.learners["objective.temperature"], alpha)
    for mine, old, new in zip(weights.references["target"].parameters(), target.parameters(), critic.parameters()):
        torch.testing.assert_close(mine, 0.995 * old + 0.005 * new, rtol=1e-5, atol=1e-6)


def test_td3_delays_the_actor_and_blurs_the_lagged_action() -> None:
    run = trainer("td3")
    weights, arrays = run.weights, batch_of(16)
    start = [p.clone() for p in weights.policy.parameters()]
    moved = []
    for number in range(4):
        context = Context(number, 4, 3, run.memory)
        batch = run.algorithm.credit.assign(weights.prepare(arrays.batch(), context), context)
        lagged, target = weights.references["lagged"], weights.references["target"]
        blur = (0.2 * batch["noise@next"]).clamp(-0.5, 0.5)
        after = (torch.tanh(layers(lagged.body, batch["observation_next"])) + blur).clamp(-1, 1)
        values = [
            layers(target.body, torch.cat([batch["observation_next"], after], -1), e).squeeze(-1) for e in range(2)
        ]
        expected = batch["step_reward"] + 0.99 * (1 - batch["terminated"]) * torch.minimum(*values)
        torch.testing.assert_close(batch["target"], expected)
        before = [p.clone() for p in target.parameters()]
        run.algorithm.update.apply(batch, weights, context)
        now = [p.clone() for p in weights.policy.parameters()]
        moved.append(any(not torch.equal(a, b) for a, b in zip(start, now)))
        start = now
        assert any(not torch.equal(a, b) for a, b in zip(before, target.parameters())) == (number % 2 == 1)
    assert moved == [False, True, False, True]


@pytest.mark.exact("td3")
def test_two_updates_of_td3_are_the_textbooks() -> None:
    """The critics twice, the actor and both averages once, after the second step of the critics: with plain descent, which shows
    signs and factors, and critics of which now one, now the other is the lesser."""
    run = trainer(
        "td3", update__optimiser={"part": "sgd", "lr": 0.1}, credit__optimiser={"part": "sgd", "lr": 1e-2}, policy__limit=0.1
    )  # fmt: skip
    weights, arrays = run.weights, batch_of(16)
    actor, critic = copy.deepcopy(weights.policy), weights.learners["credit"]
    lagged, target = copy.deepcopy(actor), copy.deepcopy(critic)
    s, a, s2, r, d = (
        torch.from_numpy(getattr(arrays, n))
        for n in ("observation", "action", "observation_next", "reward", "terminated")
    )
    q = lambda net, x, act: [layers(net.body, torch.cat([x, act], -1), e).squeeze(-1) for e in range(2)]
    with torch.no_grad():
        first, second = q(critic, s, torch.tanh(layers(actor.body, s)))
        critic.body.biases[-1][1] -= (second - first).median()
    critic = copy.deepcopy(critic)
    for number in range(2):
        context = Context(number, 4, 3, run.memory)
        batch = run.algorithm.credit.assign(weights.prepare(arrays.batch(), context), context)
        with torch.no_grad():
            blur = (0.2 * batch["noise@next"]).clamp(-0.1, 0.1)
            y = r + 0.99 * (1 - d) * torch.minimum(
                *q(target, s2, (torch.tanh(layers(lagged.body, s2)) + blur).clamp(-1, 1))
            )
        descent = torch.optim.SGD(critic.parameters(), lr=1e-2)
        descent.zero_grad()
        (0.5 * sum(((value - y) ** 2).mean() for value in q(critic, s, a))).backward()
        descent.step()
        run.algorithm.update.apply(batch, weights, context)
    first, second = q(critic, s, torch.tanh(layers(actor.body, s)))
    assert (first < second).any() and (first > second).any(), "the lesser critic is not always the first"
    descent = torch.optim.SGD(actor.parameters(), lr=0.1)
    (-q(critic, s, torch.tanh(layers(actor.body, s)))[0].mean()).backward()
    descent.step()
    pairs = [(weights.policy, actor), (weights.learners["credit"], critic)]
    for mine, theirs in pairs:
        torch.testing.assert_close(list(mine.parameters()), list(theirs.parameters()), rtol=1e-5, atol=1e-7)
    for name, start, end in (("lagged", lagged, actor), ("target", target, critic)):
        for mine, old, new in zip(weights.references[name].parameters(), start.parameters(), end.parameters()):
            torch.testing.assert_close(mine, 0.995 * old + 0.005 * new, rtol=1e-5, atol=1e-7)


def test_what_td3_explores_and_both_send() -> None:
    """Noise of deviation 0.1 on the action, within [-1, 1]; none while it is scored. Pendulum's bounds are -2 and 2."""
    actor = trainer("td3").weights.policy
    seen = np.repeat(batch_of(1).observation, 4000, 0)
    best = actor.best(seen)
    drawn, logp = actor.act(seen, torch.Generator().manual_seed(0))
    assert (drawn - best).std() == pytest.approx(0.1, rel=0.05) and abs((drawn - best).mean()) < 0.01
    assert not logp.any() and np.allclose(best, best[0])
    with torch.no_grad():
        actor.body.biases[-1].fill_(20.0)  # at the bound, half of the noise would leave it
    drawn, _ = actor.act(seen, torch.Generator().manual_seed(0))
    assert drawn.max() == 1.0 and 0.4 < (drawn < 1).mean() < 0.6
    np.testing.assert_allclose(actor.sent(np.array([[-1.0], [0.0], [1.0]])), [[-2.0], [0.0], [2.0]])
    np.testing.assert_allclose(actor.taken(actor.sent(drawn)), drawn, atol=1e-6)
    gaussian = trainer("sac").weights.policy
    mean, _ = gaussian(torch.from_numpy(seen[:1]))
    np.testing.assert_allclose(gaussian.best(seen[:1]), np.tanh(mean.detach().numpy()), rtol=1e-6)


@pytest.mark.exact("sac")
def test_the_density_of_a_squashed_draw_integrates_to_one() -> None:
    """log pi is a density on [-1, 1], for the spread that a clamped or a shifted deviation would change as well."""
    actor = trainer("sac").weights.policy
    with torch.no_grad():
        for weight, bias in zip(actor.body.weights, actor.body.biases):
            weight.zero_(), bias.zero_()
        for log_std in (-1.5, 0.0):
            actor.body.biases[-1][0, 0] = torch.tensor([0.4, log_std])
            edge = np.linspace(-1 + 1e-5, 1 - 1e-5, 40_001, dtype=np.float32)[:, None]
            zeros = np.zeros(len(edge), np.float32)
            seen = np.zeros((len(edge), 3), np.float32)
            batch = Arrays(seen, edge, seen, zeros, zeros).batch()
            density = actor.fill(batch, ["logp"], grad=False)["logp"].exp().double().numpy()
            assert np.trapezoid(density, edge[:, 0].astype(float)) == pytest.approx(1.0, abs=2e-3)
            assert density[:-1].argmax() > 20_000


def test_the_first_actions_are_uniform_and_a_time_limit_does_not_terminate() -> None:
    """Pendulum never terminates: after 200 steps its time is up, and what follows is still worth something."""
    run = trainer("sac", generate__steps=210, generate__act__warmup=200, replay__updates_per_step=0.0)
    with torch.no_grad():
        run.weights.policy.body.biases[-1][0, 0, 0] = 20.0  # its own actions are all at the upper bound
    assert run.step()["episode/length"] == 200
    ring = run.memory.states["replay"]["ring"]
    arrays = ring.arrays.take(np.arange(ring.size))
    assert ring.size == 210 and not arrays.terminated.any()
    assert abs(arrays.action[:200].mean()) < 0.15 and arrays.action[:200].std() == pytest.approx(3**-0.5, rel=0.15)
    assert (arrays.action[200:] > 0.999).all()
    seen, after = arrays.observation.astype(float), arrays.observation_next.astype(float)
    spin = seen[:, 2] + 0.05 * (
        15 * seen[:, 1] + 3 * 2 * arrays.action[:, 0]
    )  # Pendulum's equation, at actions in [-2, 2]
    np.testing.assert_allclose(after[:, 2], spin.clip(-8, 8), atol=1e-4)
    assert np.abs(after[199] - seen[200]).max() > 1e-3, "not the next episode's first observation"
    drawn = ring.draw(5000, np.random.default_rng(0)).reward
    assert set(drawn.tolist()) == set(arrays.reward.tolist())


def test_published_constants() -> None:
    """SAC: stable-baselines3's; TD3: the paper's where they are the same as the release's (sfujim/TD3)."""
    sac, td3 = find("sac").algorithm().dump(), find("td3").algorithm().dump()
    for method, lr in ((sac, 3e-4), (td3, 1e-3)):
        assert method["credit"]["gamma"] == 0.99 and method["credit"]["members"] == 2
        assert method["update"]["optimiser"]["lr"] == method["credit"]["optimiser"]["lr"] == lr
        assert [(r["decay"], r["every"]) for r in method["update"]["references"]] in ([(0.995, 1)], [(0.995, 2)] * 2)
        assert method["replay"]["batch"] == 256 and method["replay"]["capacity"] == 1_000_000
        assert method["replay"]["updates_per_step"] == 1.0 and method["update"]["max_grad_norm"] == math.inf
    noise = {name: td3["policy"][name] for name in ("exploration", "smoothing", "limit")}
    assert noise == {"exploration": 0.1, "smoothing": 0.2, "limit": 0.5} and td3["objective"]["every"] == 2
    assert sac["objective"]["temperature"]["target"] is None and sac["objective"]["temperature"]["initial"] == 1.0


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_batches_come_one_by_one_and_a_resumed_run_continues_exactly(name: str) -> None:
    whole = trainer(name)
    metrics = [whole.step() for _ in range(4)]
    assert metrics[0]["replay/size"] == 8 and "critic/loss" not in metrics[0]  # the ring is only just full enough
    assert whole.weights.steps == 8 * 3 and math.isfinite(metrics[-1]["critic/loss"])
    first = trainer(name)
    first.step(), first.step()
    ring = first.memory.states["replay"]["ring"]
    assert ring.size == 16 and ring.arrays is not None
    copied = copy.deepcopy(first.state_dict())
    second = trainer(name)
    second.load_state_dict(copied)
    assert torch.equal(torch.cat([p.flatten() for p in first.weights.policy.parameters()]),
                       torch.cat([p.flatten() for p in second.weights.policy.parameters()]))  # fmt: skip
    assert second.memory.states["replay"]["ring"].size == 16


def test_the_ring_overwrites_the_oldest_and_keeps_its_place() -> None:
    ring = Ring(5)
    ring.add(batch_of(3, 1))
    ring.add(batch_of(4, 2))
    assert ring.arrays is not None and ring.size == 5 and ring.place == 2
    later = batch_of(4, 2)
    assert np.array_equal(ring.arrays.reward[[3, 4, 0, 1]], later.reward)
    again = Ring(5)
    again.load_state_dict(ring.state_dict())
    assert again.place == 2 and np.array_equal(again.arrays.reward, ring.arrays.reward)  # type: ignore[union-attr]
    ring.add(batch_of(9, 3))
    assert np.array_equal(np.sort(ring.arrays.reward), np.sort(batch_of(9, 3).reward[-5:]))
    with pytest.raises(ValueError, match="empty"):
        Ring(3).draw(1, np.random.default_rng(0))


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="transitions"):
        find("sac").algorithm().set({"replay": "on_policy"}).check()
    with pytest.raises(UserError, match="finite bounds"):
        find("sac").algorithm().policy.build(Wanted(GymTask("CartPole-v1")))
    with pytest.raises(UserError, match="there is no learner 'critic'"):
        trainer("sac", update__references=[{"part": "ema", "name": "target", "of": "critic"}])
    with pytest.raises(UserError, match="two sources of columns are called 'target'"):
        trainer("sac", update__reference={"part": "ema", "name": "target"})
