"""Credit by key against plain loops: local groups, anchor groups of visited states, merged edges."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from credit_making import context_for

from anypo.algorithm import Algorithm
from anypo.credit import Pipeline
from anypo.credit.centres.keyed import Keyed, KeyedDeviation
from anypo.credit.granularity.keyed import KeyedMean, KeyedReturns, step_rewards, units
from anypo.credit.plain import StandardDeviation
from anypo.data.batch import Batch
from anypo.data.records import Group, Steps, Trajectory
from anypo.errors import UserError


def walk(states: list[int], rewards: list[float], sample: int, per_turn: int = 2, **fields: Any) -> Trajectory:
    """An episode that took one turn of `per_turn` decisions in each of `states`."""
    n = per_turn * len(states)
    content = Steps(np.zeros((n, 1)), np.zeros((n, 1)), np.zeros(1))
    keys = {"state": np.repeat(states, per_turn), "action": np.repeat([s % 2 for s in states], per_turn)}
    turn = np.repeat(np.arange(len(states)), per_turn)
    dense = np.zeros(n)
    dense[per_turn - 1 :: per_turn] = rewards  # a turn is paid at its end
    return Trajectory(
        0, content, np.zeros(n), np.zeros(n, np.int64), reward=float(sum(rewards)), turn=turn, step_rewards=dense,
        sample=sample, **({"keys": keys} | fields),
    )  # fmt: skip


def maze(seed: int, groups: int = 3, members: int = 4) -> list[Group]:
    rng = np.random.default_rng(seed)
    out = []
    for g in range(groups):
        lengths = rng.integers(1, 6, members)
        out.append(
            Group(
                g,
                tuple(
                    walk(rng.integers(0, 4, n).tolist(), rng.normal(size=n).tolist(), i) for i, n in enumerate(lengths)
                ),
            )
        )
    return out


def turns_of(groups: list[Group], gamma: float) -> list[tuple[int, int, int, int, int, float]]:
    """(group, member, turn, state, action, discounted return) of every turn, by the definition."""
    out = []
    for g, group in enumerate(groups):
        for i, t in enumerate(group.trajectories):
            paid = t.step_rewards[1::2]
            for k in range(len(paid)):
                value = sum(gamma ** (j - k) * paid[j] for j in range(k, len(paid)))
                out.append((g, i, k, int(t.keys["state"][2 * k]), int(t.keys["action"][2 * k]), value))
    return out


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_anchor_groups_are_those_of_the_definition(leave_one_out: bool, scale: bool) -> None:
    groups = maze(1)
    batch = Batch.pack(groups, torch.float64)
    part = KeyedReturns(gamma=0.9, weight=0.7, outcome=1.5, leave_one_out=leave_one_out, scale=scale)
    episode = torch.randn(batch.n_sequences, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = part.spread(episode, batch, context_for(part))
    anchors: dict[tuple[int, int], list[float]] = defaultdict(list)
    turns = turns_of(groups, 0.9)
    for g, _i, _k, state, _action, value in turns:
        anchors[g, state].append(value)
    expected, lone, crowd = [], 0, 0
    for g, i, _k, state, _action, value in turns:
        others = anchors[g, state]
        lone, crowd = lone + (len(others) == 1), crowd + (len(others) > 2)
        mean = (
            (sum(others) - value) / (len(others) - 1) if leave_one_out and len(others) > 1 else float(np.mean(others))
        )
        gain = value - mean
        if scale and len(others) > 1:
            gain /= np.std(others, ddof=1) + 1e-6
        first = sum(len(group.trajectories) for group in groups[:g]) + i
        expected += [1.5 * float(episode[first]) + 0.7 * gain] * 2
    assert lone and crowd
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-12)


def test_gigpo_is_grpo_where_states_are_never_shared_and_step_credit_sums_to_nothing() -> None:
    groups = [Group(0, tuple(walk([10 * i + k for k in range(3)], [0.0, 0.0, float(i)], i) for i in range(4)))]
    batch = Batch.pack(groups, torch.float64)
    alone = Pipeline(scale=StandardDeviation(), granularity=KeyedReturns())
    plain = Pipeline(scale=StandardDeviation())
    torch.testing.assert_close(
        alone.assign(batch, context_for(alone))["advantage"], plain.assign(batch, context_for(plain))["advantage"]
    )
    mixed = Batch.pack(maze(2), torch.float64)
    steps = KeyedReturns(outcome=0.0)
    rows = steps.spread(torch.zeros(mixed.n_sequences, dtype=torch.float64), mixed, context_for(steps))
    ids, n = mixed.units("group", "state")
    sums = torch.zeros(n, dtype=torch.float64).index_add(0, ids, rows)
    torch.testing.assert_close(sums, torch.zeros_like(sums))
    whole = KeyedReturns(outcome=1.0, weight=0.0)
    episode = torch.arange(float(mixed.n_sequences), dtype=torch.float64)
    assert torch.equal(whole.spread(episode, mixed, context_for(whole)), mixed.spread(episode))


def test_salt_is_the_edge_average_of_gigpo_about_its_states() -> None:
    """With an outcome only and gamma 1: the (state, action) mean of (R - mean over the state) is SALT's edge value minus the mean of
    the edges over the state's visits."""
    rng = np.random.default_rng(3)
    walks = []
    for i in range(6):
        n = int(rng.integers(2, 6))
        outcome = [0.0] * (n - 1) + [float(rng.integers(0, 2))]
        walks.append(walk(rng.integers(0, 3, n).tolist(), outcome, i))
    batch = Batch.pack([Group(0, tuple(walks))], torch.float64)
    reward = batch.sequences["reward"]
    edges = KeyedMean().spread(reward - reward.mean(), batch, context_for(KeyedMean()))
    gains = KeyedReturns(gamma=1.0, outcome=0.0)
    steps = gains.spread(reward, batch, context_for(gains))

    def mean_by(values: torch.Tensor, *by: str) -> torch.Tensor:
        ids, n = batch.units("group", *by)
        return torch.stack([values[ids == u].mean() for u in range(n)])[ids]

    torch.testing.assert_close(mean_by(steps, "state", "action"), edges - mean_by(edges, "state"), atol=1e-12, rtol=0)


def test_merging_keeps_total_credit_and_leaves_unshared_steps_alone() -> None:
    batch = Batch.pack(maze(5), torch.float64)
    advantages = torch.randn(batch.n_sequences, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    merged = KeyedMean().spread(advantages, batch, context_for(KeyedMean()))
    torch.testing.assert_close(merged.sum(), batch.spread(advantages).sum())
    ids, n = batch.units("group", "state", "action")
    turns, _ = batch.units("turn")
    lone = [u for u in range(n) if len(turns[ids == u].unique()) == 1]
    assert lone
    for u in lone:
        assert torch.equal(merged[ids == u], batch.spread(advantages)[ids == u])
    same = Batch.pack([Group(0, tuple(walk([1, 2, 3], [0.0, 0.0, 1.0], i) for i in range(3)))], torch.float64)
    credit = Pipeline(granularity=KeyedMean())
    assert not credit.assign(same, context_for(credit))["advantage"].any()


def test_turns_are_a_key_and_decisions_may_be_steps() -> None:
    groups = [Group(0, (walk([5, 6], [1.0, 2.0], 0, per_turn=1), walk([7, 8, 9], [3.0, 4.0, 5.0], 1, per_turn=1)))]
    batch = Batch.pack(groups, torch.float64)
    part = KeyedReturns(by=("turn",), gamma=0.5, outcome=0.0)
    rows = part.spread(torch.zeros(2, dtype=torch.float64), batch, context_for(part))
    first, second = [1 + 0.5 * 2, 2.0], [3 + 0.5 * 4 + 0.25 * 5, 4 + 0.5 * 5, 5.0]
    half = [(a - b) / 2 for a, b in zip(first, second)]
    np.testing.assert_allclose(rows.numpy(), [*half, *(-h for h in half), 0.0])
    flat = Batch.pack([Group(0, (walk([5, 6], [1.0, 2.0], 0, per_turn=1).replace(turn=None),))])
    assert units(flat, "turn")[1] == 1 and units(flat, "decision")[1] == 2


def test_a_steps_reward_is_what_was_earned_there_and_the_rest_comes_last() -> None:
    dense = walk([1, 2], [0.5, 0.25], 0)
    said = walk([1, 2, 3], [0.0] * 3, 1, extra={"turn_rewards": (0.5, 0.0, 1.0)}).replace(step_rewards=None, reward=1.5)
    outcome = walk([1, 2], [0.0, 0.0], 2).replace(reward=2.0)
    shaped = walk([4], [1.0], 3).replace(reward=0.75)
    batch = Batch.pack([Group(0, (dense, said, outcome, shaped))], torch.float64)
    steps, n = units(batch, "turn")
    np.testing.assert_allclose(step_rewards(batch, steps, n).numpy(), [0.5, 0.25, 0.5, 0.0, 1.0, 0.0, 2.0, 0.75])


def test_a_step_without_a_key_shares_with_nobody() -> None:
    keyed = walk([1, 1], [0.0, 1.0], 0)
    bare = walk([1, 1], [0.0, 3.0], 1, keys={})
    batch = Batch.pack([Group(0, (keyed, bare))], torch.float64)
    part = KeyedReturns(gamma=1.0, outcome=0.0, by=("state",))
    context = context_for(part)
    assert part.spread(torch.zeros(2, dtype=torch.float64), batch, context).tolist() == [0.0] * 8
    assert context.metrics["credit/key_size"] == pytest.approx(4 / 3)  # the two visits to state 1, and two steps alone
    assert context.metrics["credit/key_shared"] == pytest.approx(0.5)


# -- whole trajectories ---------------------------------------------------------------------------------------------------------


def sessions(rewards: list[list[tuple[int, float]]]) -> Batch:
    """Groups of one-turn trajectories with a session each (-1: none)."""
    groups = []
    for g, members in enumerate(rewards):
        rollouts = []
        for i, (session, reward) in enumerate(members):
            keys = {"session": session} if session >= 0 else {}
            rollouts.append(walk([1], [reward], i, keys=keys))
        groups.append(Group(g, tuple(rollouts)))
    return Batch.pack(groups, torch.float64)


def test_local_groups_are_compared_among_themselves() -> None:
    batch = sessions(
        [[(0, 1.0), (0, 2.0), (1, 10.0), (1, 20.0), (1, 60.0), (2, 7.0), (-1, 1.0), (-1, 2.0)], [(0, 5.0), (0, 9.0)]]
    )
    values = batch.sequences["reward"].unsqueeze(1)
    mean = Keyed().baseline(values, batch, context_for(Keyed())).flatten().tolist()
    assert mean == [1.5, 1.5, 30.0, 30.0, 30.0, 7.0, 1.0, 2.0, 7.0, 7.0]
    part = Keyed(leave_one_out=True)
    assert part.baseline(values, batch, context_for(part)).flatten().tolist() == [
        2.0, 1.0, 40.0, 35.0, 15.0, 7.0, 1.0, 2.0, 9.0, 5.0,
    ]  # fmt: skip
    spread = KeyedDeviation(eps=0.0)
    found = spread.divisor(values, values, batch, context_for(spread)).flatten().tolist()
    own = [math.sqrt(0.5)] * 2 + [float(np.std([10, 20, 60], ddof=1))] * 3 + [1.0] * 3 + [math.sqrt(8)] * 2
    assert found == pytest.approx(own)


def test_a_key_that_all_share_is_the_group() -> None:
    batch = sessions([[(3, 1.0), (3, 0.0), (3, 0.5)], [(3, 2.0), (3, 4.0)]])
    ours, plain = Pipeline(centre=Keyed(), scale=KeyedDeviation()), Pipeline(scale=StandardDeviation())
    torch.testing.assert_close(
        ours.assign(batch, context_for(ours))["advantage"], plain.assign(batch, context_for(plain))["advantage"]
    )
    equal = sessions([[(3, 0.1), (3, 0.1), (3, 0.1)]])
    assert not ours.assign(equal, context_for(ours))["advantage"].any()


def test_shuffling_changes_nothing() -> None:
    batch = Batch.pack(maze(7), torch.float64)
    order = torch.randperm(batch.n_sequences, generator=torch.Generator().manual_seed(2))
    for part in (KeyedReturns(scale=True), KeyedMean()):
        credit = Pipeline(granularity=part)
        straight = credit.assign(batch, context_for(credit)).select(order)["advantage"]
        shuffled = credit.assign(batch.select(order), context_for(credit))["advantage"]
        torch.testing.assert_close(straight, shuffled)


def test_empty_batches_stay_empty() -> None:
    batch = Batch.pack([], torch.float64)
    for credit in (Pipeline(centre=Keyed(by=("sample",))), Pipeline(granularity=KeyedReturns(by=("turn",)))):
        assert len(credit.assign(batch, context_for(credit))["advantage"]) == 0


def test_keys_that_nobody_provides_are_refused_before_anything_is_loaded() -> None:
    for credit in (
        Pipeline(centre=Keyed()),
        Pipeline(scale=KeyedDeviation()),
        Pipeline(centre=Keyed(by=("session", "turn"))),
    ):
        with pytest.raises(UserError, match="needs 'key:session', which no part provides"):
            Algorithm(credit=credit).check()
    with pytest.raises(UserError, match="needs 'key:state'"):
        Algorithm(credit=Pipeline(granularity=KeyedReturns())).check()
    with pytest.raises(UserError, match="needs 'key:action'"):
        Algorithm(credit=Pipeline(granularity=KeyedMean())).check()
    Algorithm(credit=Pipeline(granularity=KeyedReturns(by=("turn",)))).check()


def test_a_key_of_decisions_is_no_key_of_trajectories() -> None:
    batch = Batch.pack(maze(1))
    values = batch.sequences["reward"].unsqueeze(1)
    with pytest.raises(UserError, match=r"'state' belongs to decisions.*keyed_returns"):
        Keyed(by=("state",)).baseline(values, batch, context_for(Keyed()))
    with pytest.raises(UserError, match="unknown key 'session'"):
        Keyed().baseline(values, batch, context_for(Keyed()))
