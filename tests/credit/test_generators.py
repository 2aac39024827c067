"""Trees, re-rolled states, adaptive budgets, demonstrations and masks, on the policy that can be enumerated."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from credit_making import context_for
from scipy import stats

from anypo.claims.beds.exact import Testbed
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import CANCELLED, DEMO, TRUNCATED
from anypo.errors import UserError
from anypo.filter import DropCancelled, MajorityVote
from anypo.generate import (
    AdaptiveRounds,
    Anchored,
    ConfidenceForks,
    EntropyForks,
    Independent,
    Interventions,
    LearnedMask,
    Modes,
    NextSequence,
    OneToken,
    ReRolled,
    SegmentTree,
    Vine,
)
from anypo.generate.groups.masked import nucleus
from anypo.generate.groups.rounds import priority, shrinkage, spread_out
from anypo.generate.guided.demonstrations import demonstration, first_difference, steps
from anypo.generate.guided.next_sequence import _and_after, positions, smoothed
from anypo.generate.resume import decisions
from anypo.generate.trees.confidence import Gates, Steps, statistics
from anypo.generate.trees.segments import delimited, fork_points, segment_starts
from anypo.outlook import Outlook
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem
from anypo.tasks.unlabelled import Unlabelled

BED = Testbed(vocabulary=4, horizon=5, spread=0.8)


def rolled(part, prompts: int = 3, samples: int = 4, bed: Testbed = BED, step: int = 0):
    world = bed.world(0)
    context = context_for(part, step=step)
    asks = [Ask(i % len(world.task), samples, visit=i // len(world.task)) for i in range(prompts)]
    return part.rollout(asks, world, context), world, context


def same_prefix(child, mother) -> bool:
    n = child.fork
    tokens = (decisions(child)[:n] == decisions(mother)[:n]).all()
    return bool(
        tokens and (child.logp[:n] == mother.logp[:n]).all() and (child.version[:n] == mother.version[:n]).all()
    )


def check_tree(groups) -> None:
    for group in groups:
        assert [t.sample for t in group.trajectories] == list(range(len(group.trajectories)))
        for child in group.trajectories:
            if child.parent >= 0:
                mother = group.trajectories[child.parent]
                assert 0 <= child.fork < len(mother) and same_prefix(child, mother)
                assert child.parent < child.sample


def check_scores(groups, world) -> None:
    """Log-probabilities and rewards are those of the text that came out."""
    batch = Batch.pack(groups, torch.float64)
    logp = world.policy.fill(batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(logp, batch["logp_behaviour"], rtol=1e-9, atol=1e-12)
    for group in groups:
        for t in group.trajectories:
            assert t.text == world.policy.decode(decisions(t))
            assert t.reward == world.task.score(group.problem.prompt, t.text)


def test_segment_tree_has_its_leaves_and_shares_prefixes() -> None:
    part = SegmentTree(branching=(3, 2, 2), segment=2, max_new=5)
    groups, world, _ = rolled(part)
    check_tree(groups)
    check_scores(groups, world)
    for group in groups:
        roots = [t for t in group.trajectories if t.parent < 0]
        assert len(roots) == 3 and {t.fork for t in group.trajectories} <= {-1, 2, 4}
        late = [t for t in group.trajectories if t.fork == 2]
        assert len(late) == sum(len(t) > 2 for t in roots)
        assert len([t for t in group.trajectories if t.fork == 4]) == sum(len(t) > 4 for t in roots + late)


@pytest.mark.exact("ettrl")
def test_entropy_forks_leave_from_the_most_uncertain_decisions() -> None:
    part = EntropyForks(trees=2, forks=2, branches=3, max_new=5)
    groups, world, context = rolled(part)
    check_tree(groups)
    check_scores(groups, world)
    for group in groups:
        for mother in group.trajectories[:2]:
            cuts = [t.fork for t in group.trajectories if t.parent == mother.sample]
            best = set(np.argsort(-mother.entropy, kind="stable")[:2].tolist())
            assert set(cuts) == best and len(cuts) == 3 * len(best)
    assert 0 < context.metrics["generate/shared_share"] < 1


def test_entropy_forks_cost_what_the_paper_says() -> None:
    """Fork positions anywhere alike: (1 + BN/2) / (1 + BN) of the tokens of independent sampling; 4/7 for N = 3, B = 2."""
    bed = Testbed(vocabulary=3, horizon=40, prompts=2, graph="chain", reward="graded", spread=0.3)
    part = EntropyForks(trees=2, forks=3, branches=2, max_new=40)
    fresh, whole = 0, 0
    for seed in range(12):
        world = bed.world(seed)
        with torch.no_grad():
            world.policy.weight[:, 0] = -30.0  # no answer ends early
        groups = part.rollout([Ask(0, 1), Ask(1, 1)], world, context_for(part))
        assert all(len(g.trajectories) == 14 for g in groups)
        fresh += sum(len(t) - max(0, t.fork) for g in groups for t in g.trajectories)
        whole += sum(len(t) for g in groups for t in g.trajectories)
    assert whole == 12 * 28 * 40 and fresh / whole == pytest.approx(4 / 7, abs=0.05)


def test_fork_points_and_segment_starts() -> None:
    from credit_making import rollout

    one = rollout(0.0, 6, entropy=np.array([0.1, 2.0, 0.3, 2.5, 0.0, 1.0]))
    assert fork_points(one, 3) == [1, 3, 5] and fork_points(one, 3, least=1.5) == [1, 3]
    assert fork_points(one, 6, rise=0.5) == [1, 3]  # decision 5 is below the mean of the four before it
    assert segment_starts(np.log([0.5, 0.95, 0.5, 0.5, 0.99, 0.5]), 0.9, 2) == [0, 3]
    assert segment_starts(np.log([0.5] * 4), 1.1, 1) == [0, 1, 2, 3]
    assert segment_starts(np.log([0.99] * 4), 0.9, 5) == [0]
    assert delimited(["a", "b\n", "c", "\n"], "\n") == [0, 2]


@pytest.mark.exact("spo-segment", "dapo-direct")
def test_re_rolled_values_are_unbiased() -> None:
    """The mean of many estimates at a state is its exact value."""
    from anypo.exact import truth

    part = ReRolled(below=1.1, interval=2, continuations=64, max_new=5)
    errors = []
    for step in range(12):
        groups, world, context = rolled(part, prompts=2, samples=4, step=step)
        table = world.policy.log_table().detach()
        exact, _ = truth.state_values(table, world.task.reward, world.policy.graph)
        for group in groups:
            for t in group.trajectories:
                path = world.policy.graph.walk(decisions(t)[None].astype(np.int64))[0]
                earned = [world.task.reward[group.prompt, path[k], decisions(t)[k]] for k in range(len(t))]
                for start, value in zip(t.extra["starts"], t.extra["values"]):
                    errors.append(value - float(exact[group.prompt, path[start]]) - sum(map(float, earned[:start])))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors)) + 0.004 and len(errors) > 100
    assert context.metrics["generate/estimation_tokens"] > 0


def test_vine_groups_continue_one_state() -> None:
    groups, world, _ = rolled(Vine(states=2, max_new=5), prompts=1, samples=3)
    root, vines = groups[0], groups[1:]
    assert len(root.trajectories) == 3 and 1 <= len(vines) <= 2
    check_scores(groups, world)
    for vine in vines:
        assert len({t.fork for t in vine.trajectories}) == 1 and vine.trajectories[0].fork > 0
        assert all(same_prefix(t, root.trajectories[0]) for t in vine.trajectories)


def test_same_seed_same_rollouts() -> None:
    for part in (SegmentTree(branching=(2, 2), segment=2, max_new=5), EntropyForks(max_new=5), ReRolled(max_new=5)):
        first, second = rolled(part)[0], rolled(part)[0]
        assert [[t.text for t in g.trajectories] for g in first] == [[t.text for t in g.trajectories] for g in second]
        assert part.replace(turns=2).refuse(None) is None
        assert "accumulate" in (part.replace(workspace="rebuild").refuse(None) or "")
    assert "generate.turns to 1" in (OneToken(turns=2).refuse(None) or "")


def test_segments_are_a_share_of_the_answer_or_shorter_than_it() -> None:
    tree = find("spo-tree").algorithm()
    assert tree.set({"generate.max_new": 16}).generate.length == 5
    assert [tree.set({"generate.max_new": n}).generate.refuse(tree) for n in (3, 8, 16)] == [None] * 3
    with pytest.raises(UserError, match=r"set generate\.segment=null"):
        tree.set({"generate.max_new": 16, "generate.segment": 16}).check()
    deep = tree.set({"generate.max_new": 16, "generate.segment": 10})
    assert "beyond 1 of its 2 forks" in deep.generate.dormant(deep, Outlook(20))
    assert tree.generate.dormant(tree, Outlook(20)) is None


# -- budgets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("xrpo")
def test_priority_formula() -> None:
    n, s = 5, 0.4
    half = lambda k: stats.t.ppf(0.975, k - 1) * s / np.sqrt(k)
    assert shrinkage(n, s, 0.05) == pytest.approx(half(5) - half(6))
    falling = [shrinkage(k, s, 0.05) for k in range(2, 20)]
    assert falling == sorted(falling, reverse=True)
    assert shrinkage(n, 2 * s, 0.05) == pytest.approx(2 * shrinkage(n, s, 0.05)) and shrinkage(n, 0.0, 0.05) == 0
    assert priority(n, 0.0, 100, 0.05, 0.3) == pytest.approx(0.3 * np.sqrt(np.log(101) / 5))


def test_rounds_spend_the_budget_where_rewards_vary() -> None:
    certain, mixed = np.ones(4), np.array([1.0, 0, 1, 0])
    assert spread_out([certain, mixed, certain], 5, 12, 0.05, 0.0) == [1] * 5
    groups, world, _ = rolled(AdaptiveRounds(base=2, round=2, explore=0.0, max_new=5), prompts=4, samples=6)
    assert sum(len(g.trajectories) for g in groups) == 24 and min(len(g.trajectories) for g in groups) >= 2
    check_scores(groups, world)


def test_exemplars_are_shown_when_sampling_and_not_trained_on() -> None:
    from types import SimpleNamespace

    from anypo.generate.resume import Start, prompt_shown
    from anypo.tasks.base import Problem

    policy = SimpleNamespace(
        context=12,
        encode=lambda messages: np.array([int(m["content"]) for m in messages]),
        answer=lambda t: np.zeros(1),
    )
    world = SimpleNamespace(policy=policy)
    problem = Problem(0, ({"role": "user", "content": "7"},))
    start = Start(problem, (0,), shown=({"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}))
    assert prompt_shown(start, world, 8).tolist() == [1, 2, 7]  # type: ignore[arg-type]
    assert prompt_shown(start, world, 10).tolist() == [7]  # type: ignore[arg-type]  # does not fit: left out

    part = AdaptiveRounds(exemplars=1, corpus=2, max_new=8)
    context = context_for(part)
    near, far = np.eye(256, dtype=np.float32)[[0, 1]]
    examples = [[{"content": "1"}], [{"content": "2"}]]
    context.memory[part].update(prompts=[1, 2], features=[far, near], messages=examples)
    from anypo.data.tokens import hashed

    context.memory[part]["features"][1] = hashed(np.array([7]))
    group = SimpleNamespace(problem=problem, prompt=0)
    assert part._shown(group, world, context) == ({"content": "2"},)  # type: ignore[arg-type]
    assert part.replace(max_new=11)._fitting(examples[1], group, world) == ()  # type: ignore[arg-type]
    context.memory[part]["prompts"][1] = 0  # nobody is shown the solution of the very problem
    assert part._shown(group, world, context) == ({"content": "1"},)  # type: ignore[arg-type]


def test_an_answer_that_is_partly_paid_is_not_solved_and_becomes_no_example() -> None:
    bed = Testbed(reward="graded", prompts=4, batch=4, group=8, lr=0.01)
    run = Trainer(bed.adapt("xrpo"), bed.world(0), 0, 20)
    for _ in range(6):
        run.step()
    memory = run.memory[run.algorithm.generate]
    assert any(0 < t.reward < 1 for g in run.groups for t in g.trajectories)
    assert len(memory["prompts"]) == len(memory["features"]) == len(memory["messages"]) > 0
    for prompt, shown in zip(memory["prompts"], memory["messages"]):
        assert run.world.task.score(prompt, shown[-1]["content"]) >= 1 - 1e-9


# -- demonstrations ----------------------------------------------------------------------------------------------------------


def test_anchors_join_hopeless_groups_only() -> None:
    groups, world, _ = rolled(Anchored(least=1, max_new=5), prompts=4, samples=2)
    for group in groups:
        anchors = [t for t in group.trajectories if t.guidance == DEMO]
        assert len(anchors) == int(not any(t.reward == 1 for t in group.trajectories[:2]))
        assert all(t.reward == 1 and t.text == world.task.targets[group.prompt] for t in anchors)
    assert any(t.guidance == DEMO for g in groups for t in g.trajectories)


def test_an_anchor_makes_every_failure_negative() -> None:
    from credit_making import batch_of

    from anypo.credit.pipeline import Pipeline
    from anypo.credit.plain import StandardDeviation

    credit = Pipeline(scale=StandardDeviation())
    out = credit.assign(batch_of([[0.0] * 4 + [1.0]]), context_for(credit)).sequences["advantage"]
    assert float(out.sum()) == pytest.approx(0, abs=1e-12) and bool((out[:4] < 0).all()) and float(out[4]) > 0


def test_interventions_keep_the_right_part_and_replace_the_first_wrong_step() -> None:
    groups, world, _ = rolled(
        Interventions(delimiter="", review="comparison", continuations=8, max_new=5), prompts=4, samples=6
    )
    demos = [g.trajectories[0] for g in groups if g.trajectories[0].guidance == DEMO]
    assert demos
    for demo in demos:
        target = world.task.targets[demo.prompt]
        assert target.startswith(demo.text) and demo.text
    for group in groups:  # a demonstration is a group of its own
        assert len({t.guidance == DEMO for t in group.trajectories}) == 1


def test_first_difference() -> None:
    assert first_difference("a\nb\nx\nd", "a\nb\nc\nd", "\n") == ("a\nb\n", "c\n")
    assert first_difference("x", "a\nb", "\n") == ("", "a\n") and first_difference("a\nb", "a\nb", "\n") is None
    assert first_difference("a", "a\nb", "\n") == ("a", "b")
    assert steps("ab", "") == ["a", "b"] and "".join(steps("p\nq\n\nr", "\n")) == "p\nq\n\nr"


def test_one_token_counts_and_rewards() -> None:
    groups, world, _ = rolled(OneToken(draws=64, max_new=5), prompts=2)
    for group in groups:
        gold = world.policy.answer(group.problem.solution)[:5]
        by_place: dict[int, int] = {}
        for t in group.trajectories:
            assert len(t) == 1
            place = len(t.content.tokens) - 2
            token = int(t.content.tokens[-1])
            assert t.reward == (1.0 if token == gold[place] else -0.1)
            by_place[place] = by_place.get(place, 0) + t.extra["count"]
        assert by_place == dict.fromkeys(range(len(gold)), 64)


@pytest.mark.exact("otr")
def test_one_token_gradient_is_probability_weighted_imitation() -> None:
    """At temperature 1 the expected gradient of the method is (1 - beta) times that of probability-weighted imitation, per text the
    mean over its positions; the drawn one approaches it as 1 / sqrt(K). At temperature 1.3 it is another."""
    method = find("otr").algorithm()

    def slopes(draws: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The method's gradient and that of weighted imitation, over the policy's weights."""
        part = OneToken(draws=draws, temperature=temperature, max_new=5)
        groups, world, _ = rolled(part, prompts=2)
        batch = Batch.pack(groups, torch.float64)
        batch = batch.with_rows(**world.policy.fill(batch, ["logp"], grad=True))
        credited = method.credit.assign(batch, context_for(method.credit))
        loss = method.objective.loss(credited, context_for(method.objective))
        weight = next(iter(world.policy.parameters()))
        gold = torch.tensor([t.reward == 1 for t in batch.trajectories], dtype=torch.float64)[batch.sequence]
        places = torch.tensor([sum(t.reward == 1 for t in g.trajectories) for g in groups])[batch.row_group]
        imitated = -(1.1 * batch["logp"].detach().exp() * batch["logp"] * gold / places).sum() / len(groups)
        return torch.autograd.grad(loss, weight, retain_graph=True)[0], torch.autograd.grad(imitated, weight)[0]

    def distance(draws: int, temperature: float) -> float:
        found, wanted = slopes(draws, temperature)
        return float((found - wanted).norm() / wanted.norm())

    many = distance(40_000, 1.0)
    assert many < 0.02 < distance(100, 1.0) and distance(40_000, 1.3) > 5 * many


def test_next_sequence_rewards_the_truth_and_draws_one_place_per_chunk() -> None:
    bed = Testbed(vocabulary=4, horizon=8, graph="chain", reward="graded", kind="linear")
    part = NextSequence(chunks=3, length=2, reward="hybrid")
    world = bed.world(0)
    groups = part.rollout([Ask(0, 1), Ask(1, 1)], world, context_for(part))
    texts = [g for g in groups if g.trajectories[0].guidance == DEMO]
    rolls = [g for g in groups if g.trajectories[0].guidance != DEMO]
    assert len(texts) == 2 and all(len(g.trajectories) == 3 for g in rolls)
    assert all(len(t) <= 2 for g in rolls for t in g.trajectories)


@pytest.mark.parametrize("length", [1, 5])
def test_next_sequence_reads_every_sampled_token(length: int) -> None:
    """A rollout as it is made, cut off behind `length` tokens: the truth earns 1, and another last token alone earns less."""
    bed = Testbed(vocabulary=4, horizon=8, graph="chain", reward="graded", kind="linear")
    world, part = bed.world(0), NextSequence(length=length)
    problem = world.task.train(0)
    text = demonstration(problem, np.array([1, 2, 3, 1, 2, 3, 1, 2]), world)
    truth = part._read([text], world)[1][0]
    cut = 1

    def earned(last: int) -> float:
        said = decisions(text)[: cut + length].copy()
        said[-1] = last
        made = demonstration(problem, said, world).replace(finish=TRUNCATED)
        states = part._read([_and_after(made)], world)[1][0]
        return part._agreement(cut, made, states, text, truth)

    right = int(decisions(text)[cut + length - 1])
    assert earned(right) == pytest.approx(1.0, abs=1e-6)
    assert all(earned(other) < 1 - 0.1 / length for other in (1, 2, 3) if other != right)
    short = demonstration(problem, decisions(text)[: cut + 1], world)
    assert part._agreement(cut, short, part._read([short], world)[1][0], text, truth) < 1 / length + 1e-6


def test_next_sequence_says_when_every_text_is_too_short() -> None:
    class Bare:
        name, outcome = "bare", "correct"
        problems = [Problem.ask("1+1", "2", "2"), Problem.ask("5+5", "10", "10")]

        def __len__(self) -> int:
            return 2

        def train(self, index: int) -> Problem:
            return self.problems[index]

    method = find("refine").algorithm()
    said = method.generate.dormant(method, Outlook(20, task=Bare()))
    assert "beside the imitation" in said and "set generate.length=1" in said
    method = method.set({"generate.length": 1})
    assert method.generate.dormant(method, Outlook(20, task=Bare())) is None
    assert "no worked solutions" in NextSequence().suits(Unlabelled(Bare()))


def test_positions_follow_the_softmax_of_entropy() -> None:
    flat = np.zeros(24)
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(3000):
        chosen = positions(flat, 4, 4, 1, 1.0, rng)
        assert len(chosen) == 4 and all(5 * i <= c < 5 * i + 5 for i, c in enumerate(chosen))
        counts[chosen] += 1
    assert counts.min() / 3000 == pytest.approx(0.2, abs=0.04)
    entropy = np.array([0.0, 1.0, 3.0, 2.0, 9.0, 9.0])
    assert positions(entropy, 1, 2, 1, 1e-3, rng) == [2]
    picks = [positions(entropy, 1, 2, 1, 1.0, rng)[0] for _ in range(4000)]
    wanted = np.exp(entropy[:4]) / np.exp(entropy[:4]).sum()
    np.testing.assert_allclose(np.bincount(picks, minlength=4) / 4000, wanted, atol=0.03)
    np.testing.assert_allclose(smoothed(np.array([3.0, 0, 0, 3]), 2), [1.0, 1.0, 1.0, 1.0])
    assert positions(np.zeros(3), 2, 5, 1, 1.0, rng) == []


# -- masks, modes, confidence ------------------------------------------------------------------------------------------------


@pytest.mark.exact("nlpo")
def test_nucleus_is_minimal() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    assert nucleus(p, 0.9).tolist() == [[True, True, True, False], [True, False, False, False]]
    assert nucleus(p, 0.5).sum(1).tolist() == [1, 1] and bool(nucleus(p, 1.0).all())
    for mass in (0.2, 0.6, 0.94):
        inside = torch.where(nucleus(p, mass), p, 0.0)
        assert bool((inside.sum(1) >= mass).all())
        smallest = torch.where(inside > 0, inside, 9.0).min(1).values
        assert bool((inside.sum(1) - smallest < mass).all())


@pytest.mark.exact("nlpo")
def test_learned_mask_samples_inside_it_and_records_its_mass() -> None:
    part = LearnedMask(mass=0.7, refresh=5, max_new=5)
    groups, world, _context = rolled(part, prompts=2, samples=6)
    check_scores(groups, world)
    logits = world.policy.next_logits(Batch.pack(groups))
    inside = nucleus(logits.softmax(-1), 0.7)
    taken = torch.from_numpy(np.concatenate([decisions(t) for g in groups for t in g.trajectories])).long()
    assert bool(inside.gather(1, taken[:, None]).all())
    mass = torch.from_numpy(np.concatenate([t.log_mass for g in groups for t in g.trajectories]))
    torch.testing.assert_close(mass, torch.where(inside, logits.log_softmax(-1), -torch.inf).logsumexp(-1))
    plain, world, _ = rolled(LearnedMask(mass=1.0, max_new=5), prompts=2)
    assert all(np.allclose(t.log_mass, 0) for g in plain for t in g.trajectories)


def test_the_mask_lags_behind_the_policy() -> None:
    part = LearnedMask(mass=0.7, refresh=4, max_new=5)
    world, context = BED.world(0), context_for(part)
    part.rollout([Ask(0, 2)], world, context)
    kept = context.memory[part]["copy"]["weight"].clone()
    with torch.no_grad():
        world.policy.weight.add_(1.0)
    context.step = 3
    part.rollout([Ask(0, 2)], world, context)
    assert torch.equal(context.memory[part]["copy"]["weight"], kept)
    context.step = 4
    part.rollout([Ask(0, 2)], world, context)
    assert torch.equal(context.memory[part]["copy"]["weight"], world.policy.weight)


def test_an_answer_without_a_tag_names_no_mode() -> None:
    part = Modes()
    assert [part.mode(text) for text in ("<instant>4", " <agentic>", "a long thought, 4")] == [0, 2, -1]


def test_forced_modes_are_context_and_free_ones_are_decisions() -> None:
    part = Modes(tags=("a", "b"), forced=2, free=3, max_new=4)
    groups, world, context = rolled(part, prompts=2)
    for group in groups:
        assert [t.rewards["mode"] for t in group.trajectories[:4]] == [0, 0, 1, 1]
        for t in group.trajectories:
            full = t.guidance + t.text
            assert t.reward == world.task.score(group.problem.prompt, full)
            prompt = 1 + len(t.guidance)
            assert (t.content.roles[:prompt] == 0).all() and (t.content.roles[prompt:] == 1).all()
            assert len(t) == len(t.content.tokens) - prompt
    assert 0 <= context.metrics["generate/free_a"] <= 1


GATES = Gates(uncertain=3.5, calm=1.0, doubt=2.4, least=1.8, tail=2.0)


def crafted(entropy, group, tail, rise=None) -> Steps:
    n = len(entropy)
    zeros = np.zeros(n) if rise is None else np.array(rise, dtype=float)
    arrays = (np.array(x, dtype=float) for x in (entropy, group, tail))
    return Steps(*arrays, zeros, np.zeros((n, 4), dtype=int), np.zeros((n, 4)))


def test_confidence_fork_width_and_pruning_rules() -> None:
    part = ConfidenceForks()
    assert part.width(crafted([3.5], [2.4], [9.0]), 0, GATES) == 3
    assert part.width(crafted([1.0], [2.4], [9.0]), 0, GATES) == 1
    assert part.width(crafted([9.0], [1.7], [9.0]), 0, GATES) == 4
    gate = crafted([4.0] * 6, [2.0] * 6, [9.0] * 6, [0.5] * 6)
    assert part.fork(gate, GATES) == 4 and part.fork(crafted([3.4] * 6, [2.0] * 6, [9.0] * 6, [0.5] * 6), GATES) is None
    assert part.fork(crafted([4.0] * 6, [2.5] * 6, [9.0] * 6, [0.5] * 6), GATES) is None
    assert part.fork(crafted([4.0] * 6, [2.0] * 6, [9.0] * 6, [0.1] * 6), GATES) is None
    flat = [3.0] * 6
    assert part.prune(crafted(flat, flat, flat), GATES) is None
    assert part.prune(crafted(flat, [3, 3, 1.7, 3, 3, 3], flat), GATES) == 2
    assert part.prune(crafted(flat, [3, 3, 1.7, 3, 3, 3], flat), GATES, 3) is None  # before the branch began
    assert part.prune(crafted(flat, flat, [3, 2.5, 2.2, 1.9, 1.9, 1.9]), GATES) == 3
    assert part.prune(crafted(flat, flat, [3.9, 3.5, 3.2, 2.9, 2.8, 2.7]), GATES) is None  # falls, but is not low
    assert part.prune(crafted(flat, flat, flat, [0, 0.1, 0.2, 0.6, 0, 0]), GATES) == 3
    assert part.prune(crafted(flat, flat, flat, [0, 0.1, 0.2, 0.4, 0, 0]), GATES) is None


def test_confidence_is_never_below_ln_5_and_every_gate_is_reached() -> None:
    """The release's thresholds of 1.2, 0.4 and 1.0 are met by no distribution; quantiles of the rollouts' own are met by design."""
    draw = torch.Generator().manual_seed(0)
    read = [
        statistics(scale * torch.randn(400, 5000, generator=draw), window=4, width=4)
        for scale in (0, 0.1, 0.3, 1, 3, 10)
    ]
    assert min(float(s.group.min()) for s in read) >= math.log(5) - 1e-9
    part = ConfidenceForks()
    scales = torch.rand(400, 1, generator=draw) * 6
    mixed = [statistics(scales * torch.randn(400, 5000, generator=draw), window=4, width=4) for _ in range(8)]
    gates = part.gates(mixed[:4])
    assert gates.least >= math.log(5) and gates.calm < gates.uncertain
    assert all(part.fork(s, gates) is not None for s in mixed)
    assert any(part.prune(s, gates) is not None for s in mixed[4:])


@pytest.mark.exact("echo-ttrl")
def test_confidence_statistics() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, -3.0]] * 3 + [[0.0] * 6] * 3, dtype=torch.float64)
    found = statistics(logits, window=2, width=3)
    logp = logits.log_softmax(-1)
    np.testing.assert_allclose(found.entropy, -(logp.exp() * logp).sum(1).numpy())
    confidence = -logp[:, :5].mean(1).numpy()
    np.testing.assert_allclose(found.group, [confidence[max(0, t - 1) : t + 1].mean() for t in range(6)])
    assert found.likely[0].tolist() == [0, 1, 2] and found.rise[3] > 0 and found.rise[0] == 0


LONG = Testbed(vocabulary=6, horizon=24, prompts=3, spread=1.2, graph="chain", reward="graded")


def test_branches_that_lose_confidence_are_cut_and_their_tokens_are_never_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same rollouts with and without pruning: what is given up is shorter, does not vote, and is not trained on."""
    part = ConfidenceForks(trees=4, depth=0, uncertain=0.5, rise=0.0, look=2, max_new=24)
    watched, world, context = rolled(part, bed=LONG)
    check_tree(watched)
    branches = [t for g in watched for t in g.trajectories if t.parent >= 0]
    pruned = [t for t in branches if t.finish == CANCELLED]
    assert branches and 0 < len(pruned) < len(branches)
    assert context.metrics["generate/pruned_share"] == pytest.approx(len(pruned) / len(branches))
    monkeypatch.setattr(ConfidenceForks, "prune", lambda *_: None)
    whole, _, _ = rolled(part, bed=LONG)
    spent = lambda groups: sum(len(t) - max(0, t.fork) for g in groups for t in g.trajectories)
    assert all(t.finish != CANCELLED for g in whole for t in g.trajectories) and spent(watched) < spent(whole)
    for ours, theirs in zip(watched, whole):
        for a, b in zip(ours.trajectories, theirs.trajectories):
            n = len(a)
            assert (decisions(a) == decisions(b)[:n]).all()  # the same branch up to where it was given up
            assert n == len(b) or a.finish == CANCELLED
            assert a.text == world.policy.decode(decisions(a))
    voted = MajorityVote(answer="whole").score(list(watched), context)
    kept = DropCancelled().keep(voted, context)
    assert all(t.finish != CANCELLED for g in kept for t in g.trajectories)
    assert sum(len(g.trajectories) for g in kept) == sum(len(g.trajectories) for g in watched) - len(pruned)
    assert max(t.rewards["vote"] for g in voted for t in g.trajectories if t.finish == CANCELLED) == 0


def test_confidence_forks_say_when_no_rollout_can_fork() -> None:
    outlook = Outlook(steps=20)
    method = find("echo-ttrl").algorithm()
    assert method.generate.dormant(method, outlook) is None
    short = method.set({"generate.max_new": 5})
    assert "set generate.depth=0" in short.generate.dormant(short, outlook)


def test_independent_groups_know_their_problem() -> None:
    groups, _, _ = rolled(Independent(max_new=5))
    assert [g.index for g in groups] == [0, 1, 2]
    assert json.dumps([g.index for g in groups])
