"""References that change on purpose, and the replay buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.exact import EnumerablePolicy, tree
from anypo.outlook import Outlook
from anypo.replay import Buffer, Dataset, Delayed, Replay
from anypo.update import GradientUpdate, PeriodicReference, ReincarnatedReference


def group(prompt: int, version: int) -> Group:
    content = Tokens(np.array([9, 1, 2], np.int32), np.array([CONTEXT, ACTION, ACTION], np.int8))
    rollout = Trajectory(
        prompt, content, np.array([-0.5, -1.5]), np.full(2, version), reward=1.0, rewards={"correct": 1.0}
    )
    return Group(prompt, (rollout,), problem="text", step=version, index=prompt)


def contexts(part: Replay, steps: int) -> tuple[Replay, list[Context]]:
    algorithm = Algorithm.from_dict(Algorithm(replay=part).dump())
    memory = Memory(algorithm)
    return algorithm.replay, [Context(step, steps, 0, memory) for step in range(steps)]


def test_buffer_mixes_recent_groups_in_the_given_share() -> None:
    part, steps = contexts(Buffer(fraction=0.4, window=2), 8)
    for k, context in enumerate(steps):
        fresh = [group(10 * k + i, k) for i in range(6)]
        chosen = part.select(fresh, k, context)
        assert chosen[:6] == fresh
        old = chosen[6:]
        assert len(old) == (4 if k else 0), "4 of 10"
        assert len({g.prompt for g in old}) == len(old), "each at most once"
        assert {g.step for g in old} <= {k - 1, k - 2}
        if k:
            assert context.metrics["replay/share"] == pytest.approx(0.4)
            assert 1 <= context.metrics["replay/age"] <= 2


def test_old_groups_keep_what_they_were_sampled_with() -> None:
    part, steps = contexts(Buffer(fraction=0.5, window=1), 2)
    part.select([group(1, 3)], 3, steps[0])
    (_, old) = part.select([group(2, 4)], 4, steps[1])
    (rollout,) = old.trajectories
    assert rollout.logp.tolist() == [-0.5, -1.5] and rollout.version.tolist() == [3, 3]
    assert rollout.content.tokens.tolist() == [9, 1, 2] and dict(rollout.rewards) == {"correct": 1.0}


def test_every_age_in_the_window_is_drawn_about_equally() -> None:
    part, steps = contexts(Buffer(fraction=0.5, window=4), 400)
    ages = [0] * 5
    for k, context in enumerate(steps):
        for g in part.select([group(k, k)], k, context)[1:]:
            ages[k - g.step] += 1
    assert ages[0] == 0 and sum(ages) == 399
    assert all(70 < count < 130 for count in ages[1:])


def test_the_buffer_ends_when_told() -> None:
    part, steps = contexts(Buffer(fraction=0.5, window=3, until=2), 5)
    sizes = [len(part.select([group(k, k)], k, context)) for k, context in enumerate(steps)]
    assert sizes == [1, 2, 1, 1, 1]
    assert steps[-1].memory[part]["steps"] == []


def test_the_end_of_old_data_may_be_a_share_of_the_run() -> None:
    part, steps = contexts(Buffer(fraction=0.5, window=3, until=0.4), 5)
    assert [len(part.select([group(k, k)], k, context)) for k, context in enumerate(steps)] == [1, 2, 1, 1, 1]


def test_delayed_rollouts_are_as_old_as_they_should_be_and_keep_what_they_were_sampled_with() -> None:
    part, steps = contexts(Delayed(lag=3), 12)
    chosen = [part.select([group(k, k)], k, context) for k, context in enumerate(steps)]
    assert [k - g[0].step for k, g in enumerate(chosen)] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]
    assert [context.metrics["replay/age"] for context in steps[-2:]] == [3.0, 3.0]
    (rollout,) = chosen[-1][0].trajectories
    assert rollout.logp.tolist() == [-0.5, -1.5] and rollout.version.tolist() == [8, 8]
    assert len(steps[-1].memory[part]["steps"]) == 4, "no more is kept than waits"


def test_a_resumed_run_finds_the_rollouts_that_waited() -> None:
    part, steps = contexts(Delayed(lag=2), 10)
    for k, context in enumerate(steps[:6]):
        part.select([group(k, k)], k, context)
    again, later = contexts(Delayed(lag=2), 10)
    later[0].memory.load_state_dict(steps[0].memory.state_dict())
    for k in range(6, 9):
        (mine,), (theirs,) = part.select([group(k, k)], k, steps[k]), again.select([group(k, k)], k, later[k])
        assert mine.step == theirs.step == k - 2
    assert again.select([], 9, later[9])[0].step == 7, "a step without rollouts still trains on those that wait"


def test_what_happens_once_does_not_happen_again_in_a_run_that_is_continued_to_more_steps() -> None:
    """A share of the run is a later moment then: old data would come back, collecting would begin again, the reference be reborn."""
    part, steps = contexts(Buffer(fraction=0.5, window=3, until=0.4), 5)
    sizes = [len(part.select([group(k, k)], k, context)) for k, context in enumerate(steps)]
    sizes += [len(part.select([group(k, k)], k, Context(k, 50, 0, steps[0].memory))) for k in (5, 6)]
    assert sizes == [1, 2, 1, 1, 1, 1, 1]
    part, steps = contexts(Dataset(collect=0.4, groups=1), 5)
    plan = [*steps, *(Context(k, 50, 0, steps[0].memory) for k in (5, 6))]
    drawn = [[g.step for g in part.select([group(k, k)], k, context)] for k, context in enumerate(plan)]
    assert [len(d) for d in drawn] == [0, 0, 1, 1, 1, 1, 1] and sorted(drawn[2] + drawn[3]) == [0, 1]
    assert sorted(drawn[4] + drawn[5]) == [0, 1], "passes go on where they were"
    policy, algorithm = (
        EnumerablePolicy(tree(3, 2), 1),
        Algorithm.from_dict({"update": {"part": "gradient", "reference": {"part": "reincarnated", "at": 0.4}}}),
    )
    memory, keeper = Memory(algorithm), algorithm.update.reference
    reference = keeper.begin(policy)
    for step in range(30):
        with torch.no_grad():
            policy.weight.add_(1.0)
        before, reference = reference, keeper.after(reference, policy, Context(step, 5 if step < 5 else 50, 0, memory))
        assert (reference is not before) == (step == 1), step


def test_rollouts_that_cannot_age_as_planned_say_so() -> None:
    said = lambda part, steps: part.dormant(Algorithm(replay=part), Outlook(steps))
    assert "nothing ages" in said(Delayed(lag=3), 2), "the first two steps train on their own rollouts"
    for steps in (3, 6, 7, 20):
        part, contexts_ = contexts(Delayed(lag=3), steps)
        ages = [k - part.select([group(k, k)], k, context)[0].step for k, context in enumerate(contexts_)]
        told = said(part, steps)
        assert (told is None) == (max(ages) == 3) and (told is None or f"an age of {max(ages)} steps" in told)
    assert said(Buffer(fraction=0.4, until=1 / 7), 7) and said(Buffer(fraction=0.4, until=1 / 7), 8) is None
    assert said(Buffer(), 1) and said(Buffer(), 2) is None


def test_references_change_when_they_say() -> None:
    policy = EnumerablePolicy(tree(3, 2), 1)
    for part, moments in (
        (ReincarnatedReference(at=3), {3}),
        (ReincarnatedReference(at=0.5), {3}),
        (PeriodicReference(every=2), {2, 4}),
    ):
        algorithm = Algorithm.from_dict(Algorithm(update=GradientUpdate(reference=part)).dump())
        part, memory = algorithm.update.reference, Memory(algorithm)
        reference = part.begin(policy)
        for step in range(5):
            with torch.no_grad():
                policy.weight.add_(1.0)
            before = reference.weight.clone()
            reference = part.after(reference, policy, Context(step, 5, 0, memory))
            renewed = not torch.equal(reference.weight, before)
            assert renewed == (step + 1 in moments)
            if renewed:
                assert torch.equal(reference.weight, policy.weight)
