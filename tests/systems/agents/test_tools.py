"""The exact properties of `anypo.systems.agents.tools`, as the sources state them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for, rollout
from making_rows import make
from making_systems import BED, ascent, assign, method, rows, trainer

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.credit.granularity.turns import TurnDiscount
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens
from anypo.errors import UserError
from anypo.exact import truth
from anypo.filter.thought import Thought
from anypo.objective import PolicyGradient, SequenceRatio, SequenceSum, Tapered
from anypo.outlook import Outlook
from anypo.systems import find
from anypo.tasks import load


def chunks(ratios: list[float], turns: list[int], advantage: float) -> Batch:
    n = len(ratios)
    batch = rows([-1.0] * n, [-1.0 - math.log(r) for r in ratios], [advantage] * n)
    return batch.with_rows(turn=torch.tensor(turns), logp_behaviour=batch["logp_old"])


@pytest.mark.exact("ipa-chunk")
def test_a_chunks_return_counts_the_chunks_after_it() -> None:
    batch = make([[15, 4]]).with_rows(turn=torch.tensor([*range(15), 0, 0, 1, 1]))
    value = torch.tensor([1.0, -1.0], dtype=torch.float64)
    context = Context(0, 1, 0, Memory(Algorithm()))
    spread = TurnDiscount(gamma=0.95).spread(value, batch, context)
    assert float(spread[0]) == pytest.approx(0.95**14) and float(spread[14]) == 1.0
    assert spread[15:].tolist() == pytest.approx([-0.95, -0.95, -1.0, -1.0])
    assert torch.equal(TurnDiscount(gamma=1.0).spread(value, batch, context), batch.spread(value))
    assert TurnDiscount(gamma=0.0).spread(value, batch, context)[13:15].tolist() == [0.0, 1.0]


@pytest.mark.exact("ipa-chunk")
def test_chunk_ratios_weigh_failures_only_and_at_most_by_one() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    turns = [0, 0, 1, 1, 1]
    ratios = [0.5, 0.8, 2.0, 1.5, 3.0]
    bad = ascent(ipa, chunks(ratios, turns, -1.0))
    low = math.sqrt(0.5 * 0.8)
    assert bad.tolist() == pytest.approx([-low, -low, -1.0, -1.0, -1.0])
    swapped = ascent(ipa, chunks([0.8, 0.5, 3.0, 2.0, 1.5], turns, -1.0))
    torch.testing.assert_close(swapped, bad)
    assert ascent(ipa, chunks(ratios, turns, 1.0)).tolist() == [1.0] * 5, "imitation, whatever the old policy"
    single = ascent(ipa, chunks([0.5, 0.8, 2.0], [0, 1, 2], -1.0))
    assert single.tolist() == pytest.approx([-0.5, -0.8, -1.0]), "chunks of one token: token ratios"
    whole = PolicyGradient(ratio=SequenceRatio(), trust=Tapered(), aggregate=SequenceSum())
    one = chunks(ratios, [0] * 5, -1.0)
    torch.testing.assert_close(ascent(ipa, one), ascent(whole, one))


def test_a_chunk_far_from_its_sampler_is_left_out_whole() -> None:
    ipa = find("ipa-chunk").algorithm().objective
    batch = chunks([1.0] * 4, [0, 0, 1, 1], 1.0)
    gap = torch.tensor([4.0, 9.0, 2.0, 9.0], dtype=torch.float64).log()
    batch = batch.with_rows(logp_behaviour=batch["logp_old"] - gap)
    assert ascent(ipa, batch).tolist() == [0.0, 0.0, 1.0, 1.0], "sqrt(36) > 5, sqrt(18) < 5"


def test_rollback_learns_what_chance_would_never_find() -> None:
    """One answer in 6^4 is right: from the solution's end backwards it is learned, from the prompt it is not."""
    bed = BED.replace(vocabulary=6, horizon=5, prompts=2, batch=2, group=8, reward="sparse", lr=0.3)
    end = {"generate": {"part": "rollback", "delimiter": "", "max_new": 5}}
    final = {}
    for name, changes in {"rollback": end, "prompt": {}}.items():
        run = trainer("ipa-chunk", changes, bed)
        given = [run.step().get("generate/given_chunks", 0.0) for _ in range(60)]
        policy, task = run.world.policy, run.world.task
        final[name] = float(truth.value(policy.log_table(), task.reward, policy.graph).mean().detach())
        if changes:
            assert given[0] == 4 and given[-1] == 0 and given == sorted(given, reverse=True)
            assert all(t.guidance == "" for group in run.groups for t in group.trajectories)
    assert final["rollback"] > 0.5 > 0.02 > final["prompt"], final


def test_a_geometric_mean_has_the_smaller_variance() -> None:
    """Var of exp(mean of n normal log ratios) / mean^2 is exp(sigma^2 / n) - 1; of the product exp(n sigma^2) - 1."""
    sigma, length, count = 0.3, 6, 20_000
    noise = sigma * torch.randn(count * length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = make([[length] * count])
    batch = batch.with_rows(logp=batch["logp_old"] + noise)
    context = Context(0, 1, 0, Memory(Algorithm()))
    for normalise, expected in ((True, math.expm1(sigma**2 / length)), (False, math.expm1(sigma**2 * length))):
        weight = SequenceRatio(normalise=normalise).log_ratio(batch, context)[::length].exp()
        assert float(weight.var() / weight.mean() ** 2) == pytest.approx(expected, rel=0.1)


def callers(
    rewards: list[list[float]], lengths: list[list[int]], first: list[list[int]], calls: list[list[float]] | None = None
) -> Batch:
    """Rollouts that call a tool after so many decisions (at their length: never)."""
    flat = [(n, f) for group, begun in zip(lengths, first) for n, f in zip(group, begun)]
    turn = torch.cat([(torch.arange(n) >= f).long() for n, f in flat])
    batch = batch_of(rewards, lengths, components={"tool_calls": calls} if calls else None)
    return batch.with_rows(turn=turn)


REWARDS = [[1.0, 1.0, 1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
LENGTHS = [[10, 12, 14, 10, 6, 8], [4, 5, 6, 7, 8, 9], [9, 3, 3, 3, 3, 3]]
FIRST = [[2, 5, 11, 1, 3, 8], [1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1]]
"""The last of the first group never calls; the second are all right; in the third one alone is."""


def nudged(rewards: list[float], lengths: list[int], first: list[int], pull: float, bound: float) -> list[float]:
    """Eq. 2 of arXiv:2508.19201 on GRPO's advantages, by hand."""
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / max(1, len(rewards) - 1))
    plain = [(r - mean) / (deviation + 1e-6) if deviation else 0.0 for r in rewards]
    able = [i for i in range(len(rewards)) if rewards[i] == 1 and first[i] < lengths[i]]
    place, length = (sum(values[i] for i in able) / max(1, len(able)) for values in (first, lengths))
    out = list(plain)
    for i in able:
        most = bound * abs(plain[i])
        out[i] += max(-most, min(most, -pull * (first[i] - place) / length))
    return out


def credited(batch: Batch, **changes) -> list[list[float]]:
    rows = assign(method("aspo-tir", **changes), batch)["advantage"]
    return [rows[batch.sequence == i].tolist() for i in range(batch.n_sequences)]


@pytest.mark.exact("aspo-tir")
@pytest.mark.parametrize(("pull", "bound"), [(2.0, 0.7), (2.5, 0.9), (40.0, 0.7), (0.3, 0.7)])
def test_early_calls_of_right_answers_gain_what_the_equation_says(pull: float, bound: float) -> None:
    changes = {"credit.shape.0.pull": pull, "credit.shape.0.bound": bound}
    found = credited(callers(REWARDS, LENGTHS, FIRST), **changes)
    by_hand = [a for three in zip(REWARDS, LENGTHS, FIRST) for a in nudged(*three, pull, bound)]
    for given, value in zip(found, by_hand):
        assert given == pytest.approx([value] * len(given), abs=1e-5)
    plain = credited(callers(REWARDS, LENGTHS, FIRST), **{"credit.shape.0.pull": 0.0})
    assert [math.copysign(1, a[0]) for a in found[:6]] == [math.copysign(1, a[0]) for a in plain[:6]]
    assert found[6:12] == plain[6:12] and {a for rows in found[6:12] for a in rows} == {0.0}, "all right: inert"
    assert found[12] == plain[12], "alone it stands at its own mean"


@pytest.mark.exact("aspo-tir")
def test_what_is_not_cut_off_sums_to_nothing_and_has_no_unit() -> None:
    gains = lambda batch: [
        a[0] - b[0] for a, b in zip(credited(batch), credited(batch, **{"credit.shape.0.pull": 0.0}))
    ]
    small = callers([[1.0, 1.0, 1.0, 0.0]], [[100, 120, 80, 90]], [[30, 33, 27, 2]])
    found = gains(small)
    assert sum(found) == pytest.approx(0.0, abs=1e-12) and found[:3] == pytest.approx([0.0, -0.06, 0.06])
    double = callers([[1.0, 1.0, 1.0, 0.0]], [[200, 240, 160, 180]], [[60, 66, 54, 4]])
    assert gains(double) == pytest.approx(found)


@pytest.mark.exact("aspo-tir")
def test_a_bonus_in_the_reward_is_what_is_left_of_a_group_that_is_all_right() -> None:
    """Why the advantage is shaped: the same places as a small bonus in the reward (Eq. 1) become advantages of size 1."""
    first = torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64)
    bonus = (1.0 - 0.01 * (first - first.mean())).tolist()
    assert (
        max(abs(a[0]) for a in credited(callers([bonus], LENGTHS[1:2], FIRST[1:2]), **{"credit.shape.0.pull": 0.0})) > 1
    )
    assert all(a == [0.0] * len(a) for a in credited(callers(REWARDS[1:2], LENGTHS[1:2], FIRST[1:2])))


@pytest.mark.exact("aspo-tir")
def test_who_calls_nothing_and_groups_of_one_are_left_alone() -> None:
    plain = {"credit.shape.0.pull": 0.0}
    uncounted = callers(REWARDS[:1], LENGTHS[:1], FIRST[:1], [[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    assert credited(uncounted) == credited(uncounted, **plain), "turns without calls are no calls: one caller is left"
    for one in (callers([[1.0]], [[4]], [[2]]), callers([[1.0, 0.0]], [[3, 3]], [[3, 3]])):
        assert credited(one) == credited(one, **plain)
    spread = callers(REWARDS, LENGTHS, FIRST)
    chosen = torch.arange(spread.n_sequences).flip(0)
    assert credited(spread.select(chosen)) == credited(spread)[::-1]


@pytest.mark.exact("aspo-tir")
def test_after_a_step_the_bonus_meets_dapos_clip() -> None:
    """At another policy the shaped advantage stands in DAPO's surrogate: wide upwards, mean over all tokens."""
    batch = assign(method("aspo-tir"), callers(REWARDS[:1], LENGTHS[:1], FIRST[:1]))
    drift = torch.linspace(-0.5, 0.5, len(batch), dtype=torch.float64)
    old = torch.full_like(drift, -1.0)
    batch = batch.with_rows(logp=old + drift, logp_old=old)
    shaped = [a for a, n in zip(nudged(REWARDS[0], LENGTHS[0], FIRST[0], 2.0, 0.7), LENGTHS[0]) for _ in range(n)]
    by_hand = []
    for a, d in zip(shaped, drift.tolist()):
        ratio = math.exp(d)
        cut = ratio > 1.28 if a > 0 else ratio < 0.8
        by_hand.append(0.0 if cut else a * ratio / len(batch))
    assert ascent(method("aspo-tir").objective, batch).tolist() == pytest.approx(by_hand, abs=1e-7)


def test_a_run_without_calls_is_told_so() -> None:
    part = method("aspo-tir").credit.shape[0]
    assert "turns=4" in part.dormant(method("aspo-tir", **{"generate.turns": 1}), Outlook(5))
    assert "ends with the first answer" in part.dormant(method("aspo-tir"), Outlook(5, task=load("sums", {})))
    assert part.dormant(method("aspo-tir"), Outlook(5, task=load("calculator", {}))) is None


def reasoned(batch: Batch, marks: list[list[int]], entropy: list[float]) -> Batch:
    flat = [one for own in marks for one in own]
    columns = {"key/thought": torch.tensor(flat), "entropy_old": torch.tensor(entropy, dtype=torch.float64)}
    return batch.with_rows(**columns)


@pytest.mark.exact("funrl")
def test_open_reasoning_gains_what_the_equation_says() -> None:
    """A + 0.4 min(mean entropy of the reasoning, |A| / 2), one number for calls and reasoning, written out by hand."""
    rewards, marks = [1.0, 0.0, 1.0, 0.0], [[0, 0, -1], [0, -1], [-1, -1], [0, 0]]
    entropy = [0.2, 0.4, 9.0, 3.0, 9.0, 9.0, 9.0, 0.0, 0.1]
    batch = reasoned(batch_of([rewards, [1.0, 1.0]], [[3, 2, 2, 2], [1, 1]]), [*marks, [0], [0]], [*entropy, 2.0, 3.0])
    deviation = math.sqrt(4 * 0.25 / 3) + 1e-6
    size = 0.5 / deviation
    mean = [0.3, 3.0, 0.0, 0.05]
    by_hand = [(r - 0.5) / deviation + 0.4 * min(h, size / 2) for r, h in zip(rewards, mean)]
    found = assign(method("funrl"), batch)["advantage"].tolist()
    assert found == pytest.approx([a for a, n in zip(by_hand, (3, 2, 2, 2)) for _ in range(n)] + [0.0, 0.0])
    assert by_hand[1] == pytest.approx(-size * 0.8), "the most: a fifth of A"
    plain = assign(method("funrl", **{"credit.shape.0.weight": 0.0}), batch)["advantage"]
    torch.testing.assert_close(plain, assign(method("grpo"), batch)["advantage"])
    masked = batch.with_rows(weight=torch.tensor([1.0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1], dtype=torch.float64))
    assert float(assign(method("funrl"), masked)["advantage"][0]) == pytest.approx(size + 0.4 * 0.2)


@pytest.mark.exact("funrl")
def test_the_bonus_enters_grpos_clip_and_the_kl_is_beside_it() -> None:
    """At another policy: (min(r A', clip(r) A') - 0.001 k3), mean over each rollout and then over both; the entropy is no variable."""
    batch = reasoned(batch_of([[1.0, 0.0]], [[3, 2]]), [[0, 0, -1], [0, -1]], [0.3, 0.1, 5.0, 0.6, 0.0])
    batch = assign(method("funrl"), batch)
    logp, old, ref = [-1.0, -0.4, -0.7, -0.2, -0.9], [-1.1, -0.9, -0.6, -0.8, -0.8], [-0.8, -0.5, -1.0, -0.3, -1.5]
    columns = {"logp": logp, "logp_old": old, "logp_ref": ref}
    batch = batch.with_rows(**{name: torch.tensor(value, dtype=torch.float64) for name, value in columns.items()})
    size = 0.5 / (math.sqrt(0.5) + 1e-6)
    shaped = [size + 0.4 * 0.2] * 3 + [-size + 0.4 * size / 2] * 2
    by_hand = []
    for i, a in enumerate(shaped):
        ratio = math.exp(logp[i] - old[i])
        cut = ratio > 1.2 if a > 0 else ratio < 0.8
        drift = 1 - math.exp(ref[i] - logp[i])
        by_hand.append(((0.0 if cut else a * ratio) - 0.001 * drift) / (3 if i < 3 else 2) / 2)
    assert ascent(method("funrl").objective, batch).tolist() == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(("end", "marked"), [("ab", [3, 0, 2, 0]), ("c", [0, 1, 0, 0]), ("z", [0, 0, 0, 0])])
def test_reasoning_is_what_comes_before_its_end_is_said(end: str, marked: list[int]) -> None:
    texts = ["cab", "cc", "abab", ""] if end != "c" else ["ab", "cc", "ab", ""]
    policy = BED.world(0).policy
    members = []
    for sample, text in enumerate(texts):
        tokens = np.array([" abc".index(letter) for letter in text], dtype=np.int64)
        given = Tokens(np.concatenate([[0], tokens]), np.array([CONTEXT] + [ACTION] * len(tokens)))
        members.append(rollout(0.0, len(tokens), content=given, sample=sample))
    part = Thought(end=end)
    context = context_for(part)
    context.world = SimpleNamespace(policy=policy)
    found = part.score([Group(0, tuple(members))], context)[0].trajectories
    for trajectory, length, text in zip(found, marked, texts):
        assert trajectory.keys["thought"].tolist() == [0] * length + [-1] * (len(text) - length)
    with pytest.raises(UserError, match="key:thought"):
        method("funrl", **{"filter.signals": []}).check()
