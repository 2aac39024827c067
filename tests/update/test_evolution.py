"""Truncation selection: what seed lists stand for, who has offspring, and what only ranks can change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group, Steps, Trajectory
from anypo.errors import UserError
from anypo.run.acting import control_world
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.direct.evolution import Truncation, fitness_of


def trainer(seed: int = 3, **changes: object) -> Trainer:
    algorithm = find("deep-ga").algorithm().set({"control.prompts": 6, "update.parents": 2, "generate.candidates": 0})
    algorithm = algorithm.set({key.replace("__", "."): value for key, value in changes.items()})
    return Trainer(algorithm, control_world("CartPole-v1", seed, hidden=(8,)), seed, 10)


def context_of(run: Trainer) -> Context:
    return Context(run.number, run.total, run.seed, run.memory)


def update_of(run: Trainer) -> Truncation:
    assert isinstance(run.algorithm.update, Truncation)
    return run.algorithm.update


def judged(rewards: dict[int, list[float]], again: dict[int, list[float]] | None = None) -> Batch:
    """One-step episodes with these returns, by member; those of candidates (`again`) behind them."""
    one = Steps(np.zeros((1, 4)), np.zeros(1, dtype=np.int64), np.zeros(4))
    groups = [
        Group(0, tuple(
            Trajectory(0, one, np.zeros(1), np.zeros(1, dtype=np.int64), reward=r, keys={"member": m}, tag=tag)
            for r in returns
        ))
        for tag, given in (("", rewards), ("candidate", again or {})) for m, returns in given.items()
    ]  # fmt: skip
    return Batch.pack(groups)


def flat(run: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.weights.policy.parameters()])


def select(run: Trainer, rewards: dict[int, list[float]]) -> None:
    update_of(run).apply(judged(rewards), run.weights, context_of(run))


@pytest.mark.exact("deep-ga")
def test_a_list_of_seeds_is_the_vector_mutated_step_by_step() -> None:
    run = trainer(update__sigma=0.3)
    update, policy = update_of(run), run.weights.policy
    shapes = [tuple(p.shape) for p in policy.parameters()]
    assert shapes == [(8, 4), (8,), (2, 8), (2,)]
    scale = torch.cat([torch.full((32,), 0.5), torch.zeros(8), torch.full((16,), 0.1 / math.sqrt(8)), torch.zeros(2)])
    draws = [torch.randn(58, generator=torch.Generator().manual_seed(seed)) for seed in (5, 7, 11)]
    expected = scale * draws[0]
    for draw in draws[1:]:
        expected = expected + 0.3 * draw
    assert torch.equal(update.decode(policy, [5, 7, 11]), expected)


def test_the_fittest_have_offspring_and_the_best_becomes_the_policy() -> None:
    run = trainer()
    update = update_of(run)
    first = {m: update.seeds(m, context_of(run)) for m in range(6)}
    assert len({tuple(seeds) for seeds in first.values()}) == 6
    select(run, {0: [1.0, 3.0], 1: [9.0], 2: [8.0, 0.0], 3: [5.0], 4: [math.nan], 5: [1.0]})
    context = context_of(run)
    assert torch.equal(flat(run), update.decode(run.weights.policy, first[1]))
    assert update.seeds(0, context) == first[1]
    parents = {tuple(update.seeds(m, context)[:-1]) for m in range(1, 60)}
    assert parents == {tuple(first[1]), tuple(first[3])}
    assert all(len(update.seeds(m, context)) == 2 for m in range(1, 6))


def test_fitness_is_the_mean_over_episodes_and_nan_is_the_worst() -> None:
    assert fitness_of(judged({4: [1.0, 3.0], 2: [math.nan, 9.0]})) == ([2, 4], [-math.inf, 2.0])


def test_ties_leave_the_elite_where_it_is() -> None:
    run = trainer()
    select(run, {m: [float(m == 2)] for m in range(6)})
    elite = update_of(run).seeds(0, context_of(run))
    select(run, {m: [7.0] for m in range(6)})
    assert update_of(run).seeds(0, context_of(run)) == elite


def test_the_elite_is_the_best_candidate_by_its_further_episodes() -> None:
    """One lucky episode makes a parent, not an elite; an elite that is no parent takes the place of the last of them."""
    run = trainer()
    update = update_of(run)
    first = {m: update.seeds(m, context_of(run)) for m in range(6)}
    luck = {m: [float(m == 4) * 9 + float(m == 3) * 5] for m in range(6)}
    update.apply(judged(luck, {4: [0.0, 1.0], 2: [3.0, 4.0]}), run.weights, context_of(run))
    memory = run.memory.states["update"]
    assert memory["elite"] == first[2] and memory["parents"] == [first[2], first[4]]
    assert torch.equal(flat(run), update.decode(run.weights.policy, first[2]))
    assert update.seeds(0, context_of(run)) == first[2]
    other = trainer()
    update_of(other).apply(judged(luck, {4: [0.0], 3: [2.0]}), other.weights, context_of(other))
    memory = other.memory.states["update"]
    assert memory["elite"] == first[3] and memory["parents"] == [first[4], first[3]]


def test_candidates_are_the_fittest_and_the_elite_and_play_new_episodes() -> None:
    run = trainer(generate__candidates=2, generate__again=3)
    for step in range(3):
        run.step()
        plain = {g.trajectories[0].keys["member"]: g.rewards.mean() for g in run.groups if not g.trajectories[0].tag}
        again = [g for g in run.groups if g.trajectories[0].tag == "candidate"]
        found = {g.trajectories[0].keys["member"] for g in again}
        best = sorted(plain, key=lambda m: (-plain[m], m))[:2]
        assert len(plain) == 6 and found == ({best[0], 0} if step and 0 not in best else set(best))
        assert [len(g.trajectories) for g in again] == [3, 3]
        starts = {t.content.observations[0].tobytes() for g in run.groups for t in g.trajectories}  # type: ignore[union-attr]
        assert len(starts) == 6 + 6, "every episode begins anew"


def test_only_ranks_count() -> None:
    plain, bent = trainer(), trainer()
    rewards = {m: [float(v)] for m, v in enumerate([3, 1, 4, 1.5, 9, 2.6])}
    select(plain, rewards)
    select(bent, {m: [math.exp(v[0]) - 50] for m, v in rewards.items()})
    assert torch.equal(flat(plain), flat(bent))
    assert plain.memory.state_dict() == bent.memory.state_dict()


def test_without_parents_every_member_is_drawn_afresh() -> None:
    run = trainer(update__parents=0, update__elite=False)
    before = update_of(run).seeds(3, context_of(run))
    select(run, {m: [float(m)] for m in range(6)})
    after = update_of(run).seeds(3, context_of(run))
    assert len(before) == len(after) == 1 and before != after


def test_without_mutation_nothing_new_appears() -> None:
    run = trainer(update__sigma=0.0, update__parents=1)
    select(run, {m: [float(m)] for m in range(6)})
    update, policy = update_of(run), run.weights.policy
    vectors = [update.decode(policy, update.seeds(m, context_of(run))) for m in range(4)]
    assert all(torch.equal(vector, flat(run)) for vector in vectors)


def test_members_play_with_their_own_weights_and_the_policy_is_itself_again() -> None:
    """What every member did in its episode is what its decoded network prefers; the policy is the elite's before and after."""
    run = trainer()
    run.step()
    update, policy = update_of(run), run.weights.policy
    elite, context = flat(run), context_of(run)
    vectors = {m: update.decode(policy, update.seeds(m, context)) for m in range(6)}
    version = policy.version
    run.producer.produce(context)
    assert torch.equal(flat(run), elite) and policy.version == version
    differ = 0
    for group in run.groups:
        (trajectory,) = group.trajectories
        assert isinstance(trajectory.content, Steps)
        seen = torch.as_tensor(trajectory.content.observations, dtype=torch.float32)
        with run.weights.swapped(
            run.algorithm.update.acting(run.weights, {"member": trajectory.keys["member"]}, context)
        ):
            assert torch.equal(flat(run), vectors[int(trajectory.keys["member"])])
            np.testing.assert_array_equal(policy.best(seen), trajectory.content.actions)
        differ += int((policy.best(seen) != trajectory.content.actions).any())
    assert differ > 0


def test_a_population_needs_members() -> None:
    with pytest.raises(UserError, match="key:member"):
        find("deep-ga").algorithm().set({"generate": "environment_steps", "control": "uniform"}).check()
    with pytest.raises(UserError, match="member"):
        find("deep-ga").algorithm().set({"generate": "environment_steps"}).check()
    with pytest.raises(UserError, match="fitness"):
        find("grpo").algorithm().set({"objective": "none"}).check()
    with pytest.raises(UserError, match="no advantages"):
        find("grpo").algorithm().set({"credit": "none"}).check()
