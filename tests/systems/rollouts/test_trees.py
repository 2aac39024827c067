"""The exact properties of `anypo.systems.rollouts.trees`, as the sources state them."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for
from making_systems import assign, trainer, weights
from stepping import PLAIN, assert_descended, log_probabilities, steps

from anypo.claims.beds.exact import Testbed
from anypo.control.base import Ask
from anypo.credit.centres.subtrees import Subtrees
from anypo.credit.pipeline import Pipeline
from anypo.credit.shaping.outcomes import Unended
from anypo.credit.shaping.unit import UnitRewards
from anypo.data.records import Group
from anypo.engine.base import Completion, Request
from anypo.errors import UserError
from anypo.generate import ConfidenceForks, DatasetReset, DoublingTree, Independent, LookaheadTree
from anypo.generate.resume import decisions
from anypo.generate.trees.alike import common_subsequence, edit_distance, rouge_l, shared_ending
from anypo.generate.trees.doubling import Path, repetitive
from anypo.generate.trees.lookahead import Branch
from anypo.outlook import Outlook
from anypo.systems import find
from anypo.tasks.unlabelled import Unlabelled

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


class Scripted:
    """A sampler whose answers the test decides: `say(number, place, request)` is what is said and how it ends, as drawn for the
    request at `place` of call `number`. Keeps all it was asked."""

    exact = True

    def __init__(self, say: Any) -> None:
        self.say, self.asked = say, []

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.asked.append(list(requests))
        done = []
        for place, request in enumerate(requests):
            tokens, finish = self.say(len(self.asked) - 1, place, request)
            zeros = [np.zeros(len(tokens)) for _ in range(3)]
            done.append(Completion(np.array(tokens), *zeros, np.zeros(len(tokens), np.int64), finish))
        return done


def scripted(part: DoublingTree, samples: int, say: Any, visit: int = 0) -> tuple[Group, list[list[str]], Scripted]:
    """The group that a script leads to, and what was already said in every request of every round."""
    world = ENDLESS.world(0)
    world.sampler = sampler = Scripted(say)
    (group,) = part.rollout([Ask(0, samples, visit=visit)], world, context_for(part))
    shown = len(sampler.asked[0][0].tokens)
    seeds = [request.seed for requests in sampler.asked for request in requests]
    assert len(set(seeds)) == len(seeds), "no two requests draw the same numbers"
    said = [[world.policy.decode(r.tokens[shown:]) for r in requests] for requests in sampler.asked]
    return group, said, sampler


A, B, END = 1, 2, 0


@pytest.mark.exact("treepo")
def test_the_budget_of_paths_that_ended_passes_to_those_that_live() -> None:
    """Sixteen leaves: of 2 paths 1 ends, 2 (1 + 1) go on; of 4 three end, 2 (1 + 3) go on; then 12 are wanted, as 16 would be too
    many: eight live paths have one copy each, the last one the other four besides."""
    ends = {0: (1,), 1: (0, 1, 2)}

    def say(number: int, place: int, request: Request) -> tuple[list[int], str]:
        if place in ends.get(number, ()):
            return [A, END], "stop"
        return ([A, A, A] if place % 2 else [A, B, A])[: request.sampling.max_new], "length"

    group, said, sampler = scripted(DoublingTree(segment=3, max_new=11), 16, say)
    assert [len(round) for round in said] == [2, 4, 8, 12]
    assert said[1] == ["aba"] * 4 and said[2] == ["abaaaa"] * 8
    assert said[3] == ["abaaaaaba", "abaaaaaaa"] * 3 + ["abaaaaaba"] + ["abaaaaaaa"] * 5
    assert [requests[0].sampling.max_new for requests in sampler.asked] == [3, 3, 3, 2], "eleven decisions in all"
    assert sorted(map(len, group.trajectories)) == [2, 5, 5, 5] + [11] * 12
    assert [t.finish for t in group.trajectories] == ["stop"] * 4 + ["length"] * 12


@pytest.mark.exact("treepo")
def test_where_answers_end_too_early_others_go_on_from_a_boundary_inside_those_that_ended_well() -> None:
    """Of four answers two ended well, one below a and one below b; two leaves are wanting: the prompt in half of all cases, a and b
    in a quarter each, and nothing else. Where none ended well, the prompt."""

    def say(number: int, place: int, request: Request) -> tuple[list[int], str]:
        if number == 0:
            return [(A, B)[place], A], "length"
        if number == 1:
            return ([A, END], "stop") if place % 2 and well else ([B], "length")  # there was no room for more
        return [A, END], "stop"

    well, begun = True, []
    for visit in range(200):
        group, said, _ = scripted(DoublingTree(segment=2, max_new=6), 6, say, visit)
        assert said[:2] == [["", ""], ["aa", "aa", "ba", "ba"]] and len(said) == 3 and len(group.trajectories) == 6
        assert len(said[2]) == 2 and len(set(said[2])) == 1, "two copies of one beginning"
        begun.append(said[2][0])
    assert set(begun) == {"", "aa", "ba"}
    assert begun.count("") / 200 == pytest.approx(1 / 2, abs=0.1)
    assert begun.count("aa") / 200 == pytest.approx(1 / 4, abs=0.09)
    eight = [scripted(DoublingTree(segment=2, max_new=6), 8, say, visit)[1][2] for visit in range(60)]
    assert all(len(said) == 4 and said[0] == said[1] and said[2] == said[3] for said in eight)
    assert {said[0] for said in eight} == {said[2] for said in eight} == {"", "aa", "ba"}
    assert not any({"aa"} == set(said) or {"ba"} == set(said) for said in eight), "each is cut once"
    well = False
    assert scripted(DoublingTree(segment=2, max_new=6), 6, say)[1][2] == ["", ""]


@pytest.mark.exact("treepo")
def test_a_path_ends_where_a_segment_repeats_itself_or_a_stop_string_is_complete() -> None:
    part = DoublingTree(segment=6, max_new=18, window=4, repeats=3)
    runs = {0: [A] * 6, 1: [B, A, B, A, A, A]}  # the second has six a in a row, over two segments

    def say(number: int, place: int, request: Request) -> tuple[list[int], str]:
        length = request.sampling.max_new
        return (runs[place] if number == 0 else [A, A, A, B, A, B][:length]), "length"

    group, said, _ = scripted(part, 4, say)
    assert said[1] == ["babaaa"] * 3 and group.trajectories[0].text == "aaaaaa"
    assert group.trajectories[0].finish == "length" and all(len(t) == 18 for t in group.trajectories[1:])
    stopping = DoublingTree(segment=3, max_new=9, stop=("ba",))
    group, said, _ = scripted(stopping, 2, lambda number, place, request: ([A, A, B], "length"))
    assert [t.text for t in group.trajectories] == ["aaba"] * 2 and len(said) == 2
    assert all(
        t.finish == "stop" and t.keys["segment"].tolist() in ([0] * 3 + [2], [1] * 3 + [3]) for t in group.trajectories
    )


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
    assert DoublingTree(share="likely").counts(alive, 12) == [1 + 5, 1 + 1, 1 + 3]  # 0.55, 0.08, 0.37: 4.95, 0.74, 3.32
    last = Completion(*[np.array(value) for value in ([1, 1], [-9.0, -0.1], [0.0] * 2, [0.0] * 2, [0, 0])], "length")
    long = Path(last, (0, 1), (1, 2))
    assert DoublingTree(share="likely").counts([long, path(-2.0)], 9) == [1 + 6, 1 + 1], "its last segment only"


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
    assert DoublingTree(max_new=64).length == 5 and DoublingTree(max_new=8).length == 1
    whole = method.set({"generate.segment": 64, "generate.max_new": 64})
    assert "nothing branches" in whole.generate.dormant(whole, Outlook(20))
    assert method.generate.dormant(method, Outlook(20)) is None


# -- LATR ----------------------------------------------------------------------------------------------------------------------

CLOSE = Testbed(vocabulary=4, horizon=24, prompts=3, batch=3, group=8, graph="chain", reward="graded", spread=0.5)
RIVALS = {"rival": 0.2, "gap": 0.2, "lookahead": (2, 3, 5), "schedule": ((0.0, 1.0),), "max_new": 24}


@lru_cache(None)
def levenshtein(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


def by_rows(policy: Any, prompt: int, part: LookaheadTree, capacity: int) -> list[tuple[list[int], int, Any]]:
    """Tokens, birth and parent's tokens of every branch, grown row by row with the policy's table as the source does it."""
    table, child = policy.log_table()[prompt].exp().detach(), policy.graph.child
    rows: list[dict[str, Any]] = [{"tokens": [], "birth": 0, "parent": None, "state": 0}]
    for step in range(part.limit):
        fresh: list[dict[str, Any]] = []
        for row in rows:
            if 0 in row["tokens"]:
                row["tokens"].append(0)
                continue
            first, second = table[row["state"]].argsort(descending=True)[:2].tolist()
            p, q = float(table[row["state"], first]), float(table[row["state"], second])
            if q > part.rival and p - q < part.gap and len(rows) + len(fresh) < capacity:
                state = int(child[row["state"], second])
                fresh.append({"tokens": [*row["tokens"], second], "birth": step, "parent": row, "state": state})
            row["tokens"].append(first)
            row["state"] = int(child[row["state"], first])
        rows += fresh
        gone = []
        for row in rows:
            age = step + 1 - row["birth"]
            if row["parent"] is not None and age in part.lookahead:
                a, b = tuple(row["tokens"][-age:]), tuple(row["parent"]["tokens"][-age:])
                if 0 not in a + b and part.edit is not None and levenshtein(a, b) / age < part.edit:
                    gone.append(id(row))
        for row in rows:  # parents come before their children
            if row["parent"] is not None and id(row["parent"]) in gone:
                gone.append(id(row))
        rows = [row for row in rows if id(row) not in gone]
        if all(0 in row["tokens"] for row in rows):
            break
        if len(rows) >= capacity and all(row["birth"] + max(part.lookahead) < step for row in rows):
            break
    cut = lambda tokens: tokens[: tokens.index(0) + 1] if 0 in tokens else tokens
    return [(cut(r["tokens"]), r["birth"], r["parent"] and cut(r["parent"]["tokens"])) for r in rows]


@pytest.mark.exact("latr")
@pytest.mark.parametrize("edit", [0.0, 0.6, 1.1, None])
def test_the_tree_is_the_one_that_grows_row_by_row(edit: float | None) -> None:
    part, born, pruned, filled, ended = LookaheadTree(**(RIVALS | {"edit": edit})), 0, 0.0, 0, 0
    for seed in range(8):
        groups, world, context = grown(part, CLOSE, 6, prompts=3, seed=seed)
        born += context.metrics["generate/born_per_tree"] > 0
        pruned += context.metrics["generate/pruned_share"]
        for place, group in enumerate(groups):
            expected = by_rows(world.policy, place, part, 6)
            assert 1 <= len(expected) <= 6 == len(group.trajectories)
            for t, (tokens, birth, mother) in zip(group.trajectories, expected):
                own = decisions(t).tolist()
                assert own[: len(tokens)] == tokens and (0 not in tokens or own == tokens)
                assert (t.fork, t.parent >= 0) == ((birth, True) if mother else (-1, False))
                if mother:
                    kept = decisions(group.trajectories[t.parent]).tolist()
                    assert kept[:birth] == own[:birth] and kept[birth] != own[birth]
                ended += 0 in tokens
            for t in group.trajectories[len(expected) :]:  # the first branch's beginning, continued
                assert t.parent == 0 and decisions(t).tolist()[: t.fork] == expected[0][0]
                filled += 1
            for t in group.trajectories:
                now = log_probabilities(world.policy, t).detach().numpy()
                assert t.logp == pytest.approx(now, abs=1e-9) and t.reward == world.task.score(
                    group.problem.prompt, t.text
                )
    assert born and filled and ended
    assert pruned > 0 if edit in (0.6, 1.1) else pruned == 0


@pytest.mark.exact("latr")
def test_without_rivals_the_group_is_one_greedy_beginning_and_without_a_share_it_is_independent() -> None:
    (group,), world, context = grown(LookaheadTree(**(RIVALS | {"rival": 1.0})), CLOSE, 5)
    begun = by_rows(world.policy, 0, LookaheadTree(**(RIVALS | {"rival": 1.0})), 5)
    assert len(begun) == 1 and context.metrics["generate/born_per_tree"] == 0
    assert all(decisions(t).tolist()[: len(begun[0][0])] == begun[0][0] for t in group.trajectories)
    most = LookaheadTree(**(RIVALS | {"rival": 1.0, "schedule": ((0.0, 0.75),)}))
    (long,), _, _ = grown(most, CLOSE, 5, endless=True)
    assert most.limit == 12 and [(t.parent, t.fork) for t in long.trajectories] == [(-1, -1)] + [(0, 12)] * 3 + [
        (-1, -1)
    ]
    off = LookaheadTree(**(RIVALS | {"schedule": ((0.0, 0.0),)}))
    plain, _, _ = grown(off, CLOSE, 5, prompts=2)
    same, _, _ = grown(Independent(max_new=24), CLOSE, 5, prompts=2)
    assert [[t.text for t in g.trajectories] for g in plain] == [[t.text for t in g.trajectories] for g in same]
    assert off.rollout([], world, context) == [] and len(grown(off, CLOSE, 1)[0][0].trajectories) == 1


@pytest.mark.exact("latr")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_rivals_are_close_without_temperature_and_recorded_with_it(temperature: float) -> None:
    """Where branches fork, and the greedy beginnings, are the same at every temperature; their log-probabilities are not."""
    part = LookaheadTree(**(RIVALS | {"temperature": temperature, "edit": None}))
    (group,), world, _ = grown(part, CLOSE, 6, endless=True)
    expected = by_rows(world.policy, 0, part, 6)
    assert len(expected) > 1
    table, child = world.policy.log_table()[0].detach(), world.policy.graph.child
    heated = (table / temperature).log_softmax(-1)
    for t, (tokens, _, _) in zip(group.trajectories, expected):
        state, own = 0, decisions(t).tolist()
        assert own[: len(tokens)] == tokens
        for token, logp in zip(own, t.logp.tolist()):
            assert logp == pytest.approx(float(heated[state, token]), abs=1e-9)
            state = int(child[state, token])


@pytest.mark.exact("latr")
def test_the_share_of_the_tree_falls_as_in_the_countdown_runs() -> None:
    part = LookaheadTree()
    assert [part.share(step, 500) for step in (0, 9, 10, 19, 20, 79, 80, 199, 200, 499)] == [
        1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0,
    ]  # fmt: skip
    assert [round(8 * part.share(step, 500)) for step in (0, 10, 20, 80, 200)] == [8, 6, 4, 2, 0]
    maths = LookaheadTree(schedule=((0, 1.0), (100, 0.75), (200, 0.5), (300, 0.25)))
    assert [maths.share(step, 500) for step in (99, 100, 299, 300, 499)] == [1, 0.75, 0.5, 0.25, 0.25]


@pytest.mark.exact("latr")
def test_how_alike_two_stretches_are() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        a, b = (rng.integers(0, 3, int(rng.integers(0, 8))).tolist() for _ in range(2))
        assert edit_distance(a, b) == levenshtein(tuple(a), tuple(b))
        endings = lambda x, y: max(
            n for n in range(len(x) + 1) if not n or any(y[i : i + n] == x[-n:] for i in range(len(y)))
        )
        assert shared_ending(a, b) == max(endings(a, b), endings(b, a))
        picks = lambda x: {tuple(x[i] for i in range(len(x)) if mask >> i & 1) for mask in range(2 ** len(x))}
        longest = max(map(len, picks(a) & picks(b)))
        assert common_subsequence(a, b) == longest
        assert rouge_l(a, b) == pytest.approx(2 * longest / (len(a) + len(b)) if a and b else 0.0)


def test_a_branch_at_a_number_stays_however_alike_and_each_measure_can_be_asked_alone() -> None:
    mother = Branch([1, 2, 3, 4], birth=0)
    branch = Branch([1, 9, 3, 4], birth=1, parent=mother)
    world: Any = SimpleNamespace(policy=SimpleNamespace(decode=lambda tokens: " 7" if tokens[0] == 2 else "word"))
    words: Any = SimpleNamespace(policy=SimpleNamespace(decode=lambda tokens: "word"))
    for measures, same in (
        ({"edit": 0.4}, True),
        ({"edit": 0.3}, False),
        ({"edit": None, "ending": 0.6}, True),
        ({"edit": None, "ending": 0.7}, False),
        ({"edit": None, "overlap": 0.6}, True),
        ({"edit": None, "overlap": 0.7}, False),
    ):
        part = LookaheadTree(lookahead=(3,), **measures)
        assert part.same(branch, 4, words) is same and not part.same(branch, 4, world)
        assert not part.same(branch, 3, words) and not part.same(mother, 4, words)
        mother.over = 4
        assert not part.same(branch, 4, words)
        mother.over = None


@pytest.mark.exact("latr")
def test_a_run_of_latr_is_descent_on_grpos_loss_with_the_tree_taken_as_sampled() -> None:
    """After weight changes, too, with the KL to the initial policy."""
    changes = {f"generate.{name}": value for name, value in RIVALS.items()}
    changes |= {"control.samples": 6, "generate.schedule": [[0.0, 1.0]], "generate.lookahead": [2, 3, 5]}
    changes |= {"objective.regularise.0.coefficient": 0.3}
    reference: Any = None
    forked = 0
    for before, run in steps("latr", changes, CLOSE, 3):
        reference = reference or copy.deepcopy(before)
        terms = []
        for group in run.groups:
            rewards = [t.reward for t in group.trajectories]
            mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
            for t in group.trajectories:
                now, fixed = log_probabilities(before, t), log_probabilities(reference, t).detach()
                gap = fixed - now
                ratio = (now - now.detach()).exp()
                advantage = (t.reward - mean) / (deviation + 1e-6)
                terms.append(0.3 * (gap.exp() - 1 - gap) - advantage * ratio)
                forked += t.fork > 0
        assert_descended(before, run.world.policy, torch.cat(terms).mean())
    assert forked > 5


def test_latr_says_what_cannot_happen() -> None:
    method = find("latr").algorithm()
    short = method.set({"generate.max_new": 16})
    assert "first comparison is at 20" in short.generate.dormant(short, Outlook(20))
    long = method.set({"generate.max_new": 1024})
    assert long.generate.dormant(long, Outlook(20)) is None and long.generate.limit == 512
    with pytest.raises(UserError, match=r"generate\.stop=\[\]"):
        method.set({"generate.stop": ["x"]}).check()
    for schedule in ([], [[5, 1.0]], [[0, 1.5]], [[0, 1.0], [0.5, -0.1]]):
        with pytest.raises(UserError, match="schedule"):
            method.set({"generate.schedule": schedule})
    with pytest.raises(UserError, match="lookahead"):
        method.set({"generate.lookahead": [0, 20]})


class Narrow:
    """A sampler of a model whose context is `most` tokens."""

    exact = True

    def __init__(self, sampler: Any, most: int) -> None:
        self.sampler, self.most = sampler, most

    def generate(self, requests: list[Request]) -> list[Completion]:
        left = [self.most - len(request.tokens) for request in requests]
        assert all(n > 0 for n in left), "no engine can go on where its context is full"
        cut = [replace(r.sampling, max_new=min(n, r.sampling.max_new)) for r, n in zip(requests, left)]
        return self.sampler.generate([replace(r, sampling=c) for r, c in zip(requests, cut)])


@pytest.mark.parametrize(
    "part",
    [
        DoublingTree(segment=3, max_new=12),
        LookaheadTree(**RIVALS),
        LookaheadTree(**(RIVALS | {"grow": 3})),
        DatasetReset(max_new=12),
        ConfidenceForks(
            max_new=12, look=3, depth=0, uncertain=0.1, rise=-9.0, doubt=1.0, least=0.0, tail=0.0, surge=9.0
        ),
    ],
    ids=lambda part: part.part,
)
def test_answers_end_where_the_context_does(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = CLOSE.world(0)
    with torch.no_grad():
        world.policy.weight[:, 0] = -30.0  # no answer ends early
    room = 6
    most = len(world.policy.encode(world.task.train(0).messages)) + room
    monkeypatch.setattr(type(world.policy), "context", most)
    world.sampler = Narrow(world.sampler, most)
    (group,) = part.rollout([Ask(0, 6)], world, context_for(part))
    assert len(group.trajectories) >= 4
    assert {len(t) for t in group.trajectories} == {room} and {t.finish for t in group.trajectories} == {"length"}


# -- DR-PO ---------------------------------------------------------------------------------------------------------------------

WORKED = Testbed(vocabulary=4, horizon=5, prompts=3, batch=3, group=6, reward="graded", spread=0.6)


@pytest.mark.exact("dr-po")
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rollouts_begin_in_a_solution_at_a_cut_that_is_uniform_and_never_its_end(share: float) -> None:
    groups, world, context = grown(DatasetReset(share=share, max_new=5), WORKED, 600, prompts=3)
    for group in groups:
        answer = world.policy.answer(group.problem.solution).tolist()[:5]
        m = len(answer)
        cuts = [t.fork for t in group.trajectories]
        for t in group.trajectories[:60]:
            own = decisions(t).tolist()
            assert own[: max(0, t.fork)] == answer[: max(0, t.fork)] and len(own) > t.fork and t.parent == -1
            now = log_probabilities(world.policy, t).detach().numpy()
            assert t.logp == pytest.approx(now, abs=1e-9) and t.reward == world.task.score(group.problem.prompt, t.text)
        reset = [cut for cut in cuts if cut > 0]
        assert m >= 3 and set(cuts) <= {-1, *range(1, m)} and len(reset) == pytest.approx(600 * share, abs=50)
        for cut in range(1, m) if share else ():
            assert reset.count(cut) / len(reset) == pytest.approx(1 / (m - 1), abs=0.09)
    assert context.metrics["generate/reset_share"] == pytest.approx(share, abs=0.05)


@pytest.mark.exact("dr-po")
def test_what_is_given_is_recorded_as_it_would_have_been_sampled() -> None:
    (group,), world, _ = grown(DatasetReset(max_new=5, temperature=0.5), WORKED, 12)
    table, child = (world.policy.log_table()[0].detach() / 0.5).log_softmax(-1), world.policy.graph.child
    for t in group.trajectories:
        state, expected = 0, []
        for token in decisions(t).tolist():
            expected.append(float(table[state, token]))
            state = int(child[state, token])
        assert t.fork > 0 and t.logp.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.exact("dr-po")
def test_a_solution_of_one_token_gives_nothing_and_no_share_is_ppo_to_the_last_bit() -> None:
    (group,), _, context = grown(DatasetReset(max_new=1), WORKED, 4)
    assert [t.fork for t in group.trajectories] == [-1] * 4 and context.metrics["generate/given_tokens"] == 0
    assert DatasetReset().rollout([], WORKED.world(0), context) == []
    method = find("dr-po").algorithm()
    same = {"generate": "independent", "credit.select": []}
    left, right = (
        weights(trainer(method.set(changes), PLAIN | {"control.samples": 4}, WORKED), 3)
        for changes in ({"generate.share": 0.0}, same)
    )
    reset = weights(trainer(method, PLAIN | {"control.samples": 4}, WORKED), 3)
    assert torch.equal(left, right) and not torch.equal(left, reset)


@pytest.mark.exact("dr-po")
def test_a_run_of_dr_po_is_descent_on_the_published_loss() -> None:
    """After weight changes, too: KL, rewards, advantages and their whitening see the tokens given, the policy's loss does not."""
    reference: Any = None
    given = 0
    for before, run in steps("dr-po", {"control.samples": 6, "credit.shaping.1.coefficient": 0.3}, WORKED, 3):
        reference = reference or copy.deepcopy(before)
        rollouts = [t for g in run.groups for t in g.trajectories]
        value = torch.split(run.batch["value_old"].double(), [len(t) for t in rollouts])
        rewards = []
        for t in rollouts:
            now, fixed = log_probabilities(before, t).detach(), log_probabilities(reference, t).detach()
            paid = -0.3 * (now - fixed)
            paid[-1] += -1.0 if t.finish == "length" else t.reward
            rewards.append(paid)
        every = torch.cat(rewards)
        mean, size = every.mean(), (((every - every.mean()) ** 2).mean() + 1e-8).sqrt()
        advantages = []
        for paid, v in zip(rewards, value):
            scaled, following, out = mean + (paid - mean) / size, 0.0, []
            for step in reversed(range(len(paid))):
                after = v[step + 1] if step + 1 < len(paid) else 0.0
                following = scaled[step] + after - v[step] + 0.95 * following
                out.append(following)
            advantages.append(torch.stack(out[::-1]))
        whole = torch.cat(advantages)
        loss, count = torch.zeros((), dtype=torch.float64), 0
        for t, a in zip(rollouts, advantages):
            now, first = log_probabilities(before, t), max(0, t.fork)
            ratio = (now - now.detach()).exp()
            loss = loss - (ratio * (a - whole.mean()) / whole.std())[first:].sum()
            count, given = count + len(t) - first, given + first
        assert_descended(before, run.world.policy, loss / count)
    assert given > 50


@pytest.mark.exact("dr-po")
def test_tokens_given_have_no_gradient_and_without_a_choice_nothing_is_learnt() -> None:
    run = trainer("dr-po", PLAIN | {"control.samples": 6}, WORKED)
    before = run.world.policy.weight.detach().clone()
    run.step()
    moved = (run.world.policy.weight.detach() - before).abs()
    assert float(moved.max()) > 0
    assert (run.batch.weight == (run.batch["position"] >= run.batch.spread(run.batch.sequences["fork"])).float()).all()
    shaped = UnitRewards().shape(batch_of([[0.5, 0.5]], [[1, 1]]), context_for(Pipeline()))
    assert shaped["step_reward"].tolist() == shaped.sequences["reward"].tolist() == [0.5, 0.5]
    alone = batch_of([[1.0]], [[1]])
    assert UnitRewards().shape(alone, context_for(Pipeline())).sequences["reward"].tolist() == [1.0]
    cut = batch_of([[1.0, 0.0]], finish=[["length", "stop"]])
    assert Unended().shape(cut, context_for(Pipeline())).sequences["reward"].tolist() == [-1.0, 0.0]


def test_dr_po_needs_solutions_and_says_where_it_is_ppo() -> None:
    method = find("dr-po").algorithm()
    assert method.generate.share == 1.0 and method.update.epochs == 4  # type: ignore[attr-defined]
    assert "no rollout begins" in method.set({"generate.share": 0.0}).generate.dormant(method, Outlook(20))
    world = WORKED.world(0)
    assert method.generate.suits(world.task) is None
    assert "no worked solutions" in (method.generate.suits(Unlabelled(world.task)) or "")
