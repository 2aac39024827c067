"""The exact properties of `anypo.systems.rollouts.watched`, as the sources state them."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making_systems import numbers, trainer
from stepping import log_probabilities

from anypo.claims.beds.countdowns import Countdowns
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.control.base import Ask, Uniform
from anypo.data.batch import Batch
from anypo.data.records import Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.filter import DropCancelled, DropDegenerate, Screen
from anypo.generate.base import Independent
from anypo.generate.conversation import Episode
from anypo.generate.resume import decisions
from anypo.generate.watched.pooled import Unfinished
from anypo.generate.watched.pruned import Pruned, Rollout
from anypo.generate.watched.quality import HIDDEN, bucket, posterior, ranked, survival
from anypo.outlook import Outlook
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.systems import find

LONG = Testbed(vocabulary=4, horizon=8, graph="chain", reward="graded", prompts=8, batch=3, group=4, lr=0.2)
"""Answers of one to eight tokens, and of most prompts several visits."""

JUDGED = Testbed(vocabulary=3, horizon=6, prompts=3, batch=3, group=12, spread=1.0)
HOT: dict[str, Any] = {"generate.optimiser": {"part": "adamw", "lr": 0.05}, "generate.cold": 2}


def written(changes: dict[str, Any], system: str = "april", steps: int = 20) -> Trainer:
    """A transformer that writes up to twelve letters and a digit; texts of even length are right."""
    world = Countdowns(count=6, warm=80).world()
    world.task = replace(world.task, grade=lambda problem, text: float(len(text) % 2 == 0))  # type: ignore[type-var]
    sizes = {"control.prompts": 2, "control.samples": 3, "generate.max_new": 12, "update.optimiser.lr": 1e-3}
    return Trainer(find(system).algorithm().set({**sizes, **changes}), world, 5, steps)


def begun(run: Trainer) -> list[Unfinished]:
    """The pool."""
    return [Unfinished.restored(saved) for saved in run.memory[run.algorithm.generate]["pool"]]


def here(run: Trainer) -> Context:
    return Context(run.number, run.total, run.seed, run.memory)


def name(group: Any, trajectory: Any) -> tuple[int, int, int]:
    return group.index, group.visit, trajectory.sample


# -- april --------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("april")
@pytest.mark.parametrize("words", [False, True])
def test_every_token_that_the_engine_sampled_is_trained_on_once_or_in_the_pool(words: bool) -> None:
    run = written({}) if words else trainer("april", bed=LONG)
    engine: Any = run.world.sampler
    sampled, inner = [0], engine.watched

    def counted(*given: Any) -> Any:
        found = inner(*given)
        sampled[0] += sum(len(c.tokens) for c in found)
        return found

    engine.watched = counted
    trained: Counter[tuple[int, int, int]] = Counter()
    told = tokens = 0
    for _ in range(12):
        metrics = run.step()
        assert len(run.groups) == run.algorithm.control.prompts
        assert all(len(group.trajectories) == run.algorithm.control.samples for group in run.groups)
        trained.update(name(group, t) for group in run.groups for t in group.trajectories)
        tokens += sum(len(t) for group in run.groups for t in group.trajectories)
        told += metrics["tokens/generated"]
        pool = begun(run)
        assert metrics["generate/waiting_tokens"] == sum(group.tokens for group in pool)
        assert tokens + sum(group.tokens for group in pool) == sampled[0] == told
        waiting = {(group.ask.index, group.ask.visit, k) for group in pool for k in range(len(group.said))}
        assert set(trained.values()) == {1} and not waiting & trained.keys()
        assert len(pool) == run.algorithm.control.prompts  # twice as many in work
    visits = run.producer.visits.counts  # nothing that was asked for is lost
    assert sum(visits.values()) * run.algorithm.control.samples == len(trained) + len(waiting)


@pytest.mark.exact("april")
@pytest.mark.parametrize("words", [False, True])
def test_with_a_still_policy_what_was_interrupted_is_what_would_have_been_said_at_once(words: bool) -> None:
    still = {"update.optimiser.lr": 0.0}
    run = written(still) if words else trainer("april", still, LONG)
    put_off: set[tuple[int, int, int]] = set()
    pieces = 0
    for _ in range(10):
        run.step()
        for group in run.groups:
            plain = Independent(max_new=run.algorithm.generate.max_new, temperature=0.8)
            ask = Ask(group.index, len(group.trajectories), visit=group.visit)
            (straight,) = plain.rollout([ask], run.world, here(run))
            for ours, theirs in zip(group.trajectories, straight.trajectories):
                pieces += name(group, ours) in put_off
                np.testing.assert_array_equal(ours.content.tokens, theirs.content.tokens)
                np.testing.assert_allclose(ours.logp, theirs.logp, rtol=0, atol=2e-6)
                np.testing.assert_allclose(ours.entropy, theirs.entropy, rtol=0, atol=2e-6)
                assert (ours.finish, ours.text, ours.reward) == (theirs.finish, theirs.text, theirs.reward)
        put_off |= {
            (group.ask.index, group.ask.visit, k)
            for group in begun(run)
            for k in group.going
            if group.said[k] is not None and len(group.said[k].tokens)
        }
    assert pieces > 3, "nothing was interrupted"


@pytest.mark.exact("april")
def test_with_no_more_groups_than_needed_it_is_grpo() -> None:
    """To the last bit, on both engines."""
    same = {"objective.trust.high": 0.28, "generate.temperature": 0.8}
    pairs = [
        (trainer("april", {"generate.over": 1.0}, LONG), trainer("grpo", same, LONG)),
        (written({"generate.over": 1.0}), written(same, "grpo")),
    ]
    for ours, base in pairs:
        start = [p.detach().clone() for p in base.world.policy.parameters()]
        for _ in range(4):
            ours.step(), base.step()
        for a, b in zip(ours.world.policy.parameters(), base.world.policy.parameters()):
            assert torch.equal(a, b)
        assert any(not torch.equal(b, s) for b, s in zip(base.world.policy.parameters(), start))


@pytest.mark.exact("april")
def test_what_the_sampler_said_is_what_the_version_that_wrote_it_says() -> None:
    """Decision by decision, recomputed on a copy of that version; the old log-probabilities are those of the step's start, so that
    every ratio of the one update is 1 whatever its age."""
    run = trainer("april", {"generate.temperature": 1.0}, LONG)
    versions: dict[int, Any] = {}
    several = stale = 0
    for _ in range(12):
        versions[run.world.policy.version] = now = copy.deepcopy(run.world.policy)
        run.step()
        at = 0
        for group in run.groups:
            for t in group.trajectories:
                said = {v: log_probabilities(versions[v], t).detach().numpy() for v in np.unique(t.version).tolist()}
                owned = np.array([said[v][k] for k, v in enumerate(t.version.tolist())])
                np.testing.assert_allclose(t.logp, owned, rtol=0, atol=1e-6)
                old = run.batch["logp_old"][at : at + len(t)].double()
                torch.testing.assert_close(old, log_probabilities(now, t).detach(), rtol=0, atol=1e-5)
                several += len(said) > 1
                stale += float((old.numpy() - t.logp).max()) > 1e-3
                at += len(t)
        assert at == len(run.batch)
    assert several > 3 and stale > 3
    assert run.algorithm.update.turns() == 1


@pytest.mark.exact("april")
def test_the_ratio_to_the_sampler_can_be_asked_for() -> None:
    run = trainer("april", {"objective.ratio.denominator": "behaviour"}, LONG)
    plain = trainer("april", {}, LONG)
    for _ in range(6):
        run.step(), plain.step()
    assert not torch.equal(run.world.policy.weight, plain.world.policy.weight)


@pytest.mark.parametrize("words", [False, True])
def test_a_checkpoint_holds_the_pool(words: bool, tmp_path: Path) -> None:
    """Written and read like those of a run that was killed: what follows is the same to the last bit."""
    make = lambda: written({}) if words else trainer("april", bed=LONG)
    run = make()
    for _ in range(3):
        run.step()
    assert any(group.tokens for group in begun(run))
    checkpoint.save(tmp_path / "c", run.number, run.state_dict())
    again = make()
    again.load_state_dict(checkpoint.load(tmp_path / "c"))
    for _ in range(4):
        assert numbers(run.step()) == numbers(again.step())
    for a, b in zip(run.world.policy.parameters(), again.world.policy.parameters()):
        assert torch.equal(a, b)


def test_the_oldest_groups_that_are_complete_are_taken_first_and_in_order_of_the_data() -> None:
    run = trainer("april", bed=LONG)
    for _ in range(8):
        before = begun(run)
        run.step()
        assert [g.index for g in run.groups] == sorted(g.index for g in run.groups)
        taken = {(g.index, g.visit) for g in run.groups}
        ready = [(g.ask.index, g.ask.visit) for g in before if g.complete]
        assert set(ready[: run.algorithm.control.prompts]) <= taken
        left = [(g.ask.index, g.ask.visit) for g in begun(run)]
        old = [(g.ask.index, g.ask.visit) for g in before]
        assert left[: len(set(old) - taken)] == [key for key in old if key not in taken]


class Posed(Uniform, name="posed_for_the_test"):
    """Asks for problems that the task does not list."""

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        assert context.world is not None
        out = []
        for ask in super().choose(problems, count, context):
            listed = context.world.problem(ask)
            out.append(replace(ask, index=-1, problem=replace(listed, answer="posed", hints=("a hint",))))
        return out


@pytest.mark.parametrize("words", [False, True])
def test_a_problem_of_the_asks_own_waits_in_the_pool_as_it_is(words: bool, tmp_path: Path) -> None:
    """It is in no list that its index could find it in, in this run or after a checkpoint."""
    sizes = {"prompts": 2, "samples": 3}
    changes = {"control": {"part": "posed_for_the_test", **sizes}}
    run = written(changes) if words else trainer("april", changes, LONG)
    resumed = 0
    for number in range(8):
        before = {group.ask.problem.prompt for group in begun(run) if group.tokens}  # type: ignore[union-attr]
        run.step()
        for group in run.groups:
            assert (group.index, group.problem.answer, group.problem.hints) == (-1, "posed", ("a hint",))
            shown = run.world.policy.encode(group.problem.messages)
            for t in group.trajectories:
                assert group.prompt == t.prompt == group.problem.prompt
                np.testing.assert_array_equal(t.content.tokens[: len(shown)], shown)
            resumed += group.prompt in before
        if number == 3:
            checkpoint.save(tmp_path / "c", run.number, run.state_dict())
            run.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert resumed > 2


@pytest.mark.exact("april")
@pytest.mark.parametrize("words", [False, True])
def test_rounds_go_on_until_as_many_have_survived_and_throw_away_what_cannot_teach_alone(words: bool) -> None:
    """Dynamic sampling: a round ends with the groups that are missing still, so that none survives in vain."""
    lively = {"filter": {"part": "screen", "rounds": 10, "survival": ["drop_degenerate"]}}
    run = written(lively) if words else trainer("april", lively, LONG)
    several = 0
    for _ in range(8):
        run.step()
        alive = [g for g in run.producer.fresh if np.ptp(g.rewards) > 0]
        assert [(g.index, g.visit) for g in run.groups] == [(g.index, g.visit) for g in alive]
        assert len(alive) <= run.algorithm.control.prompts
        several += len(run.producer.fresh) > run.algorithm.control.prompts
    assert several > 1, "one round was enough"


def test_one_prompt_one_rollout_and_a_pool_that_is_not_needed() -> None:
    run = trainer("april", {"control.prompts": 1, "control.samples": 1}, LONG)
    for _ in range(5):
        run.step()
        assert len(run.groups) == 1 == len(begun(run))
    smaller = trainer("april", {"generate.over": 1.0}, LONG)
    smaller.load_state_dict(trainer("april", {}, LONG).state_dict())
    smaller.memory[smaller.algorithm.generate]["pool"] = run.memory[run.algorithm.generate]["pool"]
    assert smaller.algorithm.generate.wants(3, 3, here(smaller)) == 2


def test_what_april_cannot_do_is_said() -> None:
    with pytest.raises(UserError, match=r"one-turn answers only; set generate.turns to 1"):
        find("april").algorithm().set({"generate.turns": 2}).check()
    with pytest.raises(UserError, match=r"needs 'watched'"):
        find("april").algorithm().set({"engine": "remote"}).check()
    with pytest.raises(UserError, match=r"at another temperature, which objective.regularise\S* sets anew"):
        find("april").algorithm().set({"objective.regularise": ["entropy_temperature"]}).check()
    said = " ".join(find("april").algorithm().set({"generate.over": 1.0}).sleepers(Outlook(20)))
    assert "set generate.over=2" in said


# -- arrol --------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("arrol")
def test_certain_judgements_keep_the_share_that_is_wanted_in_the_balance_that_is_wanted() -> None:
    """Expected survivors keep * G, of which the share `balance` is right, while no rollout is certain to go on."""
    free = 0
    for n, keep, balance in itertools.product((4, 8, 16), (0.25, 0.5), (0.3, 0.5, 0.7)):
        for k in range(n + 1):
            q = np.array([1.0] * k + [0.0] * (n - k))
            v = survival(q, keep, balance)
            assert v.sum() == pytest.approx(keep * n) and (v >= 0).all() and (v <= 1).all()
            if 0 < k < n and keep * n * balance <= k and keep * n * (1 - balance) <= n - k:
                free += 1
                assert (v * q).sum() / v.sum() == pytest.approx(balance)
            if 0 < k < n:  # never further from the balance than the group is, towards which a certain one is kept whole
                assert abs((v * q).sum() / v.sum() - balance) <= abs(k / n - balance) + 1e-12
    assert free > 50
    np.testing.assert_allclose(survival(np.array([1.0] + [0.0] * 7), 0.5, 0.5), [1.0] + [3 / 7] * 7)


@pytest.mark.exact("arrol")
def test_the_chances_are_the_written_rule_at_the_scale_that_keeps_the_share() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        q, keep, balance = rng.uniform(0, 1, rng.integers(1, 20)), rng.uniform(0.1, 0.99), rng.uniform(0.1, 0.9)
        rule = balance * q / q.mean() + (1 - balance) * (1 - q) / (1 - q.mean())
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(1, middle * rule).mean() < keep else (low, middle)
        np.testing.assert_allclose(survival(q, keep, balance), np.minimum(1, low * rule), atol=1e-9)
    np.testing.assert_allclose(survival(np.full(6, 0.3), 0.5, 0.5), 0.5)
    np.testing.assert_allclose(survival(np.ones(4), 0.5, 0.5), 0.5)
    assert survival(np.array([0.2]), 0.5, 0.5) == pytest.approx(0.5) and len(survival(np.zeros(0), 0.5, 0.5)) == 0
    np.testing.assert_array_equal(survival(rng.uniform(0, 1, 5), 1.0, 0.5), 1.0)


@pytest.mark.exact("arrol")
def test_calibrated_scores_are_the_frequencies_of_a_large_sample() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(1.2, 2.0, 200_000)
    right, place = rng.random(len(p)) < p, bucket(np.log(p / (1 - p)), 10)
    counts = np.zeros((2, 10))
    np.add.at(counts, (right.astype(int), place), 1.0)
    found = posterior(counts)
    for b in range(10):
        assert found[b] == pytest.approx(right[place == b].mean(), abs=2e-3)
        assert found[b] == pytest.approx((b + 0.5) / 10, abs=0.02)
    np.testing.assert_allclose(posterior(np.zeros((2, 4))), 0.5)
    empty = np.array([[30.0, 0.0, 30.0], [10.0, 0.0, 10.0]])
    assert posterior(empty)[1] == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(posterior(np.array([[0.0, 0.0], [5.0, 2.0]])), 1.0)
    assert bucket(np.array([-1e9, 0.0, 1e9]), 10).tolist() == [0, 5, 9]
    assert ranked(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == 0.875 and math.isnan(ranked(np.zeros(0), np.zeros(2)))


@pytest.mark.exact("arrol")
def test_keeping_all_is_grpo() -> None:
    """To the last bit, on both engines, whatever the head learns beside it."""
    more = {"control.samples": 6}
    pairs = [
        (trainer("arrol", {"generate.keep": 1.0, **HOT}, JUDGED), trainer("grpo", {}, JUDGED)),
        (written({"generate.keep": 1.0, **more}, "arrol"), written(more, "grpo")),
    ]
    for ours, base in pairs:
        head = [p.detach().clone() for p in ours.weights.learners["generate"].parameters()]
        for _ in range(4):
            ours.step(), base.step()
        for a, b in zip(ours.world.policy.parameters(), base.world.policy.parameters()):
            assert torch.equal(a, b)
        assert any(not torch.equal(p, h) for p, h in zip(ours.weights.learners["generate"].parameters(), head))


@pytest.mark.exact("arrol")
def test_the_heads_loss_is_cross_entropy_of_the_judged_and_leaves_the_policy_alone() -> None:
    run = written({"generate.cold": 1, "control.samples": 6}, "arrol")
    for _ in range(3):
        run.step()
    part, batch, policy = run.algorithm.generate, run.batch, run.world.policy
    assert isinstance(part, Pruned)
    head = run.weights.learners["generate"]
    logit = head.fill(batch, ["quality"], grad=True)["quality"]
    loss = part.quality_loss(batch.with_rows(quality=logit), here(run))
    own = list(head.parameters())
    moved = torch.autograd.grad(loss, [*own, *policy.parameters()], allow_unused=True)
    assert all(g is not None and float(g.abs().sum()) > 0 for g in moved[: len(own)])
    assert all(g is None for g in moved[len(own) :])
    terms = []
    for number, t in enumerate(batch.trajectories):
        if len(t) > part.after:
            rows = (batch.sequence == number) & (batch["position"] == part.after)
            z = float(logit[rows].detach())
            terms.append(math.log1p(math.exp(-z)) if t.reward == 1 else math.log1p(math.exp(z)))
    assert len(terms) > 0 and float(loss.detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    nothing = batch.select(torch.zeros(0, dtype=torch.int64))
    assert float(part.quality_loss(nothing.with_rows(quality=torch.zeros(0)), here(run))) == 0.0


@pytest.mark.exact("arrol")
@pytest.mark.parametrize("words", [False, True])
def test_a_head_reads_in_training_what_it_read_while_sampling(words: bool) -> None:
    """The state behind the first `after` tokens: the engine's is the trainer's, and so is what the head says of it."""
    run = written({**HOT, "control.samples": 6}, "arrol") if words else trainer("arrol", HOT, JUDGED)
    part = run.algorithm.generate
    said: list[np.ndarray] = []
    inner = type(part).logits
    object.__setattr__(part, "logits", lambda *given: said.append(inner(part, *given)) or said[-1])
    for _ in range(4):
        said.clear()
        head, policy = copy.deepcopy(run.weights.learners["generate"].state_dict()), copy.deepcopy(run.world.policy)
        run.step()
        every = Batch.pack(run.producer.fresh)
        fresh = Trainer(run.algorithm, run.world, 0, 20).weights.learners["generate"]
        fresh.load_state_dict(head)
        found = fresh.fill(every, ["quality"], grad=False)["quality"][every["position"] == part.after]
        assert sorted(np.concatenate(said).round(5)) == pytest.approx(sorted(found.double().numpy().round(5)), abs=2e-5)
        if words:
            states = policy.fill(every, {"hidden"}, grad=False)["hidden"]
            for number, t in enumerate(every.trajectories):
                rows = (every.sequence == number) & (every["position"] == part.after)
                assert (HIDDEN in t.extra) == bool(rows.any())
                if HIDDEN in t.extra:
                    np.testing.assert_allclose(t.extra[HIDDEN], states[rows][0].numpy(), atol=1e-4)


@pytest.mark.exact("arrol")
@pytest.mark.parametrize("words", [False, True])
def test_survivors_are_the_rollouts_they_would_have_been_and_the_others_end_where_they_were_judged(words: bool) -> None:
    """Beside a run that keeps all, with a still policy. Nobody is given up before `cold`, nor where the answer was over."""
    still = {"update.optimiser.lr": 0.0, **HOT}
    make = lambda changes: (
        written({**still, "control.samples": 6, **changes}, "arrol")
        if words
        else trainer("arrol", still | changes, JUDGED)
    )
    run, whole = make({}), make({"generate.keep": 1.0})
    part, lost, kept = run.algorithm.generate, 0, 0
    for step in range(6):
        metrics = run.step()
        whole.step()
        everybody = {name(g, t): t for g in whole.producer.fresh for t in g.trajectories}
        seen = [(name(g, t), t) for g in run.producer.fresh for t in g.trajectories]
        assert [key for key, _ in seen] == list(everybody)
        for key, t in seen:
            straight = everybody[key]
            np.testing.assert_array_equal(decisions(t), decisions(straight)[: len(t)])
            np.testing.assert_array_equal(t.logp, straight.logp[: len(t)])
            if t.finish == "cancelled":
                lost += 1
                assert step >= 2 and len(t) == part.after + 1 < len(straight)
                assert not t.rewards and t.reward == 0.0 and not any(t is k for g in run.groups for k in g.trajectories)
            else:
                kept += 1
                assert (t.finish, t.text, t.rewards, len(t)) == (
                    straight.finish,
                    straight.text,
                    straight.rewards,
                    len(straight),
                )
        assert metrics["tokens/generated"] == sum(len(t) for _, t in seen)
        assert metrics["reward/mean"] == pytest.approx(np.mean([t.reward for _, t in seen if t.finish != "cancelled"]))
    assert lost > 5 and kept > lost


@pytest.mark.exact("arrol")
def test_means_and_deviations_are_those_of_the_survivors() -> None:
    run, seen = trainer("arrol", HOT, JUDGED), 0
    for _ in range(6):
        run.step()
        batch, scale = run.batch, run.algorithm.credit.scale
        assert [t.sample for t in batch.trajectories] == [t.sample for g in run.groups for t in g.trajectories]
        for number, group in enumerate(run.groups):
            r = np.array([t.reward for t in group.trajectories])
            if r.std() == 0:
                continue
            seen += len(r) < JUDGED.group
            own = torch.unique(batch.sequence[batch.group[batch.sequence] == number]).tolist()
            found = [float(batch["advantage"][batch.sequence == sequence][0]) for sequence in own]
            np.testing.assert_allclose(found, (r - r.mean()) / (r.std(ddof=scale.ddof) + scale.eps), atol=1e-4)
    assert seen > 3


def test_resuming_keeps_the_head_and_its_counts(tmp_path: Path) -> None:
    make = lambda: written({**HOT, "control.samples": 6}, "arrol")
    run = make()
    for _ in range(4):
        run.step()
    assert run.memory[run.algorithm.generate]["counts"].sum() > 0
    checkpoint.save(tmp_path / "c", run.number, run.state_dict())
    again = make()
    again.load_state_dict(checkpoint.load(tmp_path / "c"))
    for _ in range(3):
        assert numbers(run.step()) == numbers(again.step())


@pytest.mark.exact("arrol")
def test_the_rarer_kind_is_kept_more_often_by_the_lots_that_are_drawn() -> None:
    """A head that is certain and right, with one right rollout in four: all of these are wanted, and a third of the wrong ones."""
    run = trainer("arrol", {**HOT, "generate.cold": 0}, JUDGED)
    part = run.algorithm.generate
    assert isinstance(part, Pruned)
    group = lambda k: [Rollout(0, _episode(run, k), reached=True, logit=9.0 if k % 4 == 0 else -9.0) for k in range(16)]
    counts = np.zeros((2, part.buckets))
    counts[0, 0], counts[1, -1] = 300.0, 100.0
    gone = Counter()
    for visit in range(60):
        rollouts = group(visit)
        for place in part._lots(rollouts, 0, [Ask(0, 16, visit=visit)], counts, here(run)):
            gone["right" if rollouts[place].logit > 0 else "wrong"] += 1
    assert gone["right"] / (60 * 4) < 0.05 and gone["wrong"] / (60 * 12) == pytest.approx(2 / 3, abs=0.05)


def _episode(run: Trainer, sample: int) -> Episode:
    problem = run.world.task.train(0)
    return Episode(problem, sample, (0,))


@pytest.mark.exact("arrol")
def test_what_is_counted_is_what_the_head_learns_to_foretell() -> None:
    """Rewards between 0 and 1 count in part, as they do in its loss; the calibration then says the mean reward of each bucket."""
    run = trainer("arrol", {**HOT, "generate.cold": 100}, replace(JUDGED, reward="graded"))
    total = judged = 0.0
    for _ in range(5):
        run.step()
        every = [t for g in run.producer.fresh for t in g.trajectories if len(t) > run.algorithm.generate.after]
        total, judged = total + sum(t.reward for t in every), judged + len(every)
    counts = run.memory[run.algorithm.generate]["counts"]
    assert 0 < total < judged and counts.sum() == pytest.approx(judged) and counts[1].sum() == pytest.approx(total)


def test_rollouts_that_were_given_up_are_nobodys_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control learns from those that were scored, and a group of right ones and given up ones has no contrast, whatever the order
    of the rules."""
    made = [
        Trajectory(0, Tokens(np.zeros(2, np.int32), np.array([0, 2], np.int8)), np.zeros(1), np.zeros(1, np.int64))
        for _ in range(4)
    ]
    right, lost = (
        [t.replace(reward=1.0, rewards={"correct": 1.0}) for t in made],
        [t.replace(finish="cancelled") for t in made],
    )
    group = lambda *of: Group(0, tuple(of), index=0)
    context = Context(0, 10, 0, Memory(find("arrol").algorithm()))
    for order in itertools.permutations([DropDegenerate(), DropCancelled()]):
        screen = Screen(survival=order)
        assert screen.keep([group(*right, *lost), group(*lost)], context) == []
        (kept,) = screen.keep([group(right[0], made[0], lost[0])], context)
        assert len(kept.trajectories) == 2
    run, seen = trainer("arrol", HOT, JUDGED), []
    control = type(run.algorithm.control)
    monkeypatch.setattr(control, "observe", lambda self, groups, batch, context: seen.extend(groups))
    for _ in range(6):
        run.step()
        assert all(t.finish != "cancelled" for g in seen for t in g.trajectories) and all(g.trajectories for g in seen)
    assert sum(len(g.trajectories) for g in seen) < 6 * JUDGED.batch * JUDGED.group


def test_what_arrol_cannot_do_is_said() -> None:
    method = find("arrol").algorithm()
    with pytest.raises(UserError, match=r"set generate.turns to 1"):
        method.set({"generate.turns": 2}).check()
    with pytest.raises(UserError, match=r"without_cancelled.*survival=drop_cancelled"):
        method.set({"filter": "screen"}).check()
    with pytest.raises(UserError, match=r"use --reward verifier"):
        method.set({"filter.signals": ["majority_vote"]}).check()
    with pytest.raises(UserError, match=r"set generate.detect=0.125"):
        method.set({"generate.detect": 100}).check()
    assert "set generate.keep=0.5" in " ".join(method.set({"generate.keep": 1.0}).sleepers(Outlook(20)))
    assert "generate.cold" in " ".join(method.set({"generate.cold": 40}).sleepers(Outlook(20)))
