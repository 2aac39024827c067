"""The exact properties of `anypo.systems.rollouts.trees`, as the sources state them."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for
from making_systems import assign
from stepping import assert_descended, log_probabilities, steps

from anypo.claims.beds.exact import Testbed
from anypo.control.base import Ask
from anypo.credit.centres.subtrees import Subtrees
from anypo.credit.pipeline import Pipeline
from anypo.data.records import Group
from anypo.engine.base import Completion, Request
from anypo.generate import DoublingTree
from anypo.generate.resume import decisions
from anypo.generate.trees.doubling import Path, repetitive
from anypo.outlook import Outlook
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=6, prompts=4, batch=4, group=8, spread=0.8)
ENDLESS = Testbed(vocabulary=3, horizon=40, prompts=2, graph="chain", reward="graded", spread=0.3)


class Counting:
    """A sampler that keeps what it was asked and how much it sampled."""

    exact = True

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.calls, self.tokens = sampler, [], 0

    def generate(self, requests: list[Request]) -> list[Completion]:
        done = self.sampler.generate(requests)
        self.calls.append(len(requests))
        self.tokens += sum(len(c.tokens) for c in done)
        return done


def grown(part: Any, bed: Testbed, samples: int, prompts: int = 1, endless: bool = False, seed: int = 0):
    """Groups of a generator in a bed, the sampler that counted, and the context with its metrics."""
    world = bed.world(seed)
    if endless:  # no answer ends early
        with torch.no_grad():
            world.policy.weight[:, 0] = -30.0
    world.sampler = Counting(world.sampler)
    context = context_for(part)
    return part.rollout([Ask(i, samples) for i in range(prompts)], world, context), world, context


# -- TreePO --------------------------------------------------------------------------------------------------------------------


def by_path(
    rewards: list[float], paths: list[tuple[int, ...]], weigh: str = "depth", contrast: bool = False
) -> list[float]:
    """Advantages of one prompt as the source states them: for every depth, the leaves that agree in so many segments."""
    out = []
    for reward, path in zip(rewards, paths):
        entries = []
        for depth in range(max(map(len, paths))):
            group = [r for r, p in zip(rewards, paths) if p[:depth] == path[:depth]]
            if depth == 0 or (len(group) > 1 and not (contrast and len(set(group)) == 1)):
                entries.append((reward - statistics.mean(group), len(group) if weigh == "size" else 1))
        out.append(sum(a * w for a, w in entries) / sum(w for _, w in entries))
    return out


def paths_of(group: Group) -> list[tuple[int, ...]]:
    """The segments of every rollout, in order."""
    return [tuple(dict.fromkeys(t.keys["segment"].tolist())) for t in group.trajectories]  # type: ignore[union-attr]


def drawn(rng: np.random.Generator, leaves: int) -> list[tuple[int, ...]]:
    """Paths of a random tree; every last segment is a leaf's own."""
    paths: list[tuple[int, ...]] = []
    for leaf in range(leaves):
        shared = paths[int(rng.integers(len(paths)))] if paths else ()
        shared = shared[: int(rng.integers(len(shared)))] if shared else ()
        paths.append((*shared, *range(1000 * leaf, 1000 * leaf + int(rng.integers(1, 4)))))
    return paths


@pytest.mark.exact("treepo")
@pytest.mark.parametrize("weigh", ["depth", "size"])
@pytest.mark.parametrize("contrast", [False, True])
def test_advantages_are_means_over_the_subtrees_of_a_leaf(weigh: str, contrast: bool) -> None:
    rng = np.random.default_rng(5)
    credit = Pipeline(centre=Subtrees(weigh=weigh, contrast=contrast))
    plain = differs = 0
    for _ in range(20):
        trees = [drawn(rng, int(rng.integers(1, 9))) for _ in range(3)]
        rewards = [rng.integers(0, 2, len(paths)).astype(float).tolist() for paths in trees]
        batch = batch_of(
            rewards,
            [[2 * len(p) for p in paths] for paths in trees],
            keys=[[{"segment": np.repeat(np.array(p), 2)} for p in paths] for paths in trees],
        )
        order = torch.from_numpy(rng.permutation(batch.n_sequences))
        shuffled = batch.select(order)
        found = credit.assign(batch, context_for(credit)).sequences["advantage"]
        torch.testing.assert_close(
            credit.assign(shuffled, context_for(credit)).sequences["advantage"], found[order], atol=1e-12, rtol=0
        )
        expected = [a for r, p in zip(rewards, trees) for a in by_path(r, p, weigh, contrast)]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
        flat = [r - statistics.mean(group) for group in rewards for r in group]
        differs += expected != pytest.approx(flat, abs=1e-6)
        plain += 1
    assert differs > plain / 2


@pytest.mark.exact("treepo")
def test_a_tree_without_forks_has_the_group_mean_and_one_leaf_or_equal_leaves_nothing() -> None:
    credit = Pipeline(centre=Subtrees())
    apart = [[{"segment": np.array([n])} for n in range(4)], [{"segment": np.array([0])}]]
    one = batch_of([[1.0, 0.0, 0.0, 1.0], [1.0]], keys=apart)
    assert credit.assign(one, context_for(credit))["advantage"].tolist() == [0.5, -0.5, -0.5, 0.5, 0.0]
    unmarked = batch_of([[1.0, 0.0], [1.0, 1.0]])
    assert credit.assign(unmarked, context_for(credit))["advantage"].tolist() == [0.5, -0.5, 0.0, 0.0]
    nothing = one.select(torch.zeros(5, dtype=torch.bool))
    assert len(credit.assign(nothing, context_for(credit))["advantage"]) == 0
    method = find("treepo").algorithm()
    equal = assign(method, batch_of([[1.0, 1.0]], keys=[[{"segment": np.array([n])} for n in range(2)]]))
    assert not equal["advantage"].any()


@pytest.mark.exact("treepo")
def test_live_paths_double_until_there_are_as_many_as_leaves_are_wanted() -> None:
    part = DoublingTree(segment=5, max_new=40)
    (group,), world, context = grown(part, ENDLESS, 16, endless=True)
    assert world.sampler.calls == [2, 4, 8, 16, 16, 16, 16, 16]
    assert world.sampler.tokens == 5 * sum(world.sampler.calls) < sum(map(len, group.trajectories)) == 16 * 40
    paths = paths_of(group)
    assert [len({p[:depth] for p in paths}) for depth in range(1, 6)] == [2, 4, 8, 16, 16]
    assert context.metrics["generate/fallback_share"] == 0.0
    odd = grown(part, ENDLESS, 7, endless=True)[1].sampler.calls
    assert odd == [2, 4, 7, 7, 7, 7, 7, 7]
    assert grown(part, ENDLESS, 1, endless=True)[1].sampler.calls == [1] * 8
    assert grown(part, ENDLESS, 0)[0][0].trajectories == () and part.rollout([], world, context) == []


@pytest.mark.exact("treepo")
def test_every_tree_has_its_leaves_shares_what_it_says_and_samples_that_once() -> None:
    part, fell = DoublingTree(segment=2, max_new=6), 0
    for seed in range(12):
        groups, world, context = grown(part, BED, 8, prompts=3, seed=seed)
        edges = 0
        for group in groups:
            assert len(group.trajectories) == 8
            paths = paths_of(group)
            lengths: dict[int, int] = {}
            for t, path in zip(group.trajectories, paths):
                ids = t.keys["segment"]
                assert all((ids == n).sum() <= 2 for n in path) and len(decisions(t)) == len(ids) <= 6
                lengths |= {n: int((ids == n).sum()) for n in path}
                assert t.reward == world.task.score(group.problem.prompt, t.text)
                mother = group.trajectories[t.parent] if t.parent >= 0 else None
                shared = 0 if mother is None else t.fork
                best = max((sum(a == b for a, b in zip(path, p)) for p in paths[: t.sample]), default=0)
                assert shared == sum(lengths[n] for n in path[:best])
                if mother is not None:
                    assert mother.sample < t.sample and shared < len(t)
                    assert (decisions(mother)[:shared] == decisions(t)[:shared]).all()
                    assert (mother.logp[:shared] == t.logp[:shared]).all()
            edges += sum(lengths.values())
        assert world.sampler.tokens == edges < sum(len(t) for g in groups for t in g.trajectories)
        fell += context.metrics["generate/fallback_share"] > 0
    assert fell > 0


@pytest.mark.exact("treepo")
def test_budgets_go_evenly_or_where_a_path_is_unlikely() -> None:
    def path(logp: float) -> Path:
        said = Completion(*[np.full(2, value) for value in (1, logp, 0.0, 0.0, 0)], "length")
        return Path(said, (0,), (2,))

    alive = [path(-0.1), path(-2.0), path(-0.5)]
    assert DoublingTree().counts(alive, 8) == [2, 2, 4] and DoublingTree().counts(alive, 3) == [1, 1, 1]
    weights = np.exp([0.1, 2.0, 0.5]) / np.exp([0.1, 2.0, 0.5]).sum()  # 0.11, 0.73, 0.16 of nine
    assert (9 * weights).round(2).tolist() == [0.98, 6.56, 1.46]
    assert DoublingTree(share="unlikely").counts(alive, 12) == [1 + 1, 1 + 7, 1 + 1]
    assert DoublingTree(share="likely").counts(alive, 3) == [1, 1, 1] and DoublingTree().counts([], 4) == []


def test_repetition_is_a_window_that_comes_back_eight_times() -> None:
    assert repetitive("ab" * 23, 32, 8) and not repetitive("ab" * 22, 32, 8)  # 2 (8 - 1) + 32 characters
    assert not repetitive("", 32, 8) and not repetitive("a" * 38, 32, 8) and repetitive("a" * 39, 32, 8)


@pytest.mark.exact("treepo")
def test_a_run_of_treepo_is_descent_on_the_published_loss() -> None:
    """After weight changes, too. Every leaf trains all its tokens; prompts whose leaves all score alike are left out."""
    changes = {"control.samples": 8, "filter.rounds": 1, "generate.segment": 2, "generate.max_new": 6}
    compared = forked = 0
    for before, run in steps("treepo", changes, BED, 4):
        if not run.groups:
            assert torch.equal(before.weight, run.world.policy.weight)
            continue
        assert all(len({t.reward for t in g.trajectories}) > 1 for g in run.groups)
        advantage = [a for g in run.groups for a in by_path([t.reward for t in g.trajectories], paths_of(g))]
        leaves = [t for g in run.groups for t in g.trajectories]
        rows = [a for a, t in zip(advantage, leaves) for _ in decisions(t)]
        mean, deviation = statistics.mean(rows), statistics.stdev(rows)
        total = torch.zeros((), dtype=torch.float64)
        for a, t in zip(advantage, leaves):
            now = log_probabilities(before, t)
            total = total - ((a - mean) / deviation * (now - now.detach()).exp()).sum()
        assert_descended(before, run.world.policy, total / len(rows))
        compared, forked = compared + 1, forked + sum(t.fork > 0 for t in leaves)
    assert compared >= 3 and forked > 10


def test_treepo_has_the_published_sizes_and_says_where_nothing_branches() -> None:
    method = find("treepo").algorithm()
    assert method.control.samples == 16 and method.set({"generate.max_new": 7168}).generate.length == 512  # type: ignore[attr-defined]
    assert (method.objective.trust.low, method.objective.trust.high) == (0.2, 0.28)  # type: ignore[attr-defined]
    assert math.isclose(method.update.minibatches_per_epoch, 512 / 32)  # type: ignore[attr-defined]
    whole = method.set({"generate.segment": 64, "generate.max_new": 64})
    assert "nothing branches" in whole.generate.dormant(whole, Outlook(20))
    assert method.generate.dormant(method, Outlook(20)) is None
