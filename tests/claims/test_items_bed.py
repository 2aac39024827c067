"""The bed of ten thousand prompts: the library's loop, and what it says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anypo.claims.beds.items import Followed, Items, filtered, follow
from anypo.engine.base import Request, Sampling
from anypo.generate.groups.restructured import asked

SMALL = Items(count=300, prompts=6, samples=4)


def test_quick_rollouts_are_those_of_the_library() -> None:
    quick = follow("grpo", SMALL, 3, 0)
    slow = follow("grpo", SMALL, 3, 0, lambda algorithm: algorithm.set({"generate": "independent"}))
    assert quick.trainer.algorithm.generate != slow.trainer.algorithm.generate
    np.testing.assert_array_equal(quick.success, slow.success)
    ignored = lambda row: {k: v for k, v in row.items() if not k.startswith("time/") and "per_second" not in k}
    assert [ignored(row) for row in quick.rows] == [ignored(row) for row in slow.rows]


def test_a_step_moves_the_abilities_by_the_variance_of_the_groups() -> None:
    """With the reward minus the group mean, the general ability rises by lr * root(1 - share) * mean of u (1 - u) over groups."""
    run = follow("pcl", SMALL.replace(lr=0.5, hard=1.0), 1, 3)
    right = [np.mean([t.reward for t in group.trajectories]) for group in run.trainer.groups]
    expected = 0.5 * math.sqrt(0.5) * np.mean([u * (1 - u) for u in right])
    assert float(run.trainer.world.policy.weight[0].detach()) == pytest.approx(expected, abs=1e-8)
    assert expected > 0


def test_what_a_run_says_of_its_prompts() -> None:
    best = np.array([0.25, 0.24])
    asked, sizes = (np.array([0.5, 0.5]), np.array([0.1, 0.9])), (np.array([2, 2]), np.array([4, 4]))
    run = Followed(
        np.array([0.1, 0.3, 0.5]),
        np.zeros(3),
        asked,
        sizes,
        np.array([4, 8]),
        best,
        (np.array([1, 2]), np.array([2, 3])),
        (),
        None,
    )
    assert run.informative == pytest.approx((0.5 + 0.5 + 2 * (1 - 0.9**4 - 0.1**4)) / 4)
    assert run.regret == pytest.approx(1 - (0.25 + 0.09) / 0.49)
    assert run.found == 1 and run.coverage == 0.75 and run.rollouts == 6
    assert run.within(12) == pytest.approx((4 * 0.1 + 8 * 0.3) / 12)
    assert run.within(24) == pytest.approx((4 * 0.1 + 8 * 0.3 + 12 * 0.5) / 24)


def test_dynamic_sampling_is_charged_for_what_it_discards() -> None:
    even, dynamic = follow("pcl", SMALL, 2, 0), follow("pcl", SMALL, 2, 0, filtered)
    assert even.rollouts == 24 < dynamic.rollouts
    assert all(0 < np.mean([t.reward for t in g.trajectories]) < 1 for g in dynamic.trainer.groups)


def test_words_tell_most_of_the_difficulty() -> None:
    items = Items()
    topic, level = items.words()
    told = np.stack([np.eye(20)[topic], np.eye(8)[level][:, :1].repeat(20, 1)], 2).reshape(len(topic), -1)
    told = np.concatenate([told, np.eye(8)[level]], 1)
    hard = items.difficulty(0)
    guess = told @ np.linalg.lstsq(told, hard, rcond=None)[0]
    assert 0.8 < 1 - ((hard - guess) ** 2).mean() / hard.var() < 0.97
    assert torch.allclose(torch.sigmoid(items.world(0).policy.logits()), torch.from_numpy(1 / (1 + np.exp(hard))))


def test_a_policy_that_writes_lowers_what_it_is_told_to_simplify() -> None:
    world = SMALL.replace(simpler=2).world(0)
    problem, policy = world.task.train(7), world.policy
    topic, level, _ = map(int, problem.messages[-1]["content"].split())
    for kind, down in (("hard", 2), ("medium", 0)):
        asked_for = policy.encode(({"role": "user", "content": asked(problem, kind)},))
        (reply,) = world.sampler.generate([Request(asked_for, Sampling(8), (0,))])
        assert policy.decode(reply.tokens) == f"{topic} {max(0, level - down)} 7 in other words"
    here = policy.encode(({"content": f"{topic} {level + 1} 7 in other words"},))
    easier = policy.logits(torch.tensor([7])) - policy.logits(torch.tensor([7]), torch.tensor([int(here[1]) - 100]))
    assert float(easier.detach()) == pytest.approx(1.0)
