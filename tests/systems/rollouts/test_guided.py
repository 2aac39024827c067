"""The exact properties of `anypo.systems.rollouts.guided`, as the papers and releases state them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from making_rows import built
from making_systems import assign, slope, trainer, weights
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.claims.beds.worlds import rule_task
from anypo.data.batch import Batch
from anypo.data.records import GUIDED, Group
from anypo.exact import EnumerablePolicy
from anypo.generate.guided.guides import question
from anypo.generate.guided.written import written
from anypo.objective import PolicyGradient, SequenceRatio, SequenceSum, TokenMean, Unclipped
from anypo.objective.guided import GuidedRatio, GuidedTrust, Saturating
from anypo.policies.views import Plain, look
from anypo.run.trainer import Trainer
from anypo.systems import find

HARD = Testbed(vocabulary=4, horizon=4, prompts=4, batch=4, group=4, reward="sparse", lr=0.2)
"""Answers of three letters of three: success about one in sixty."""

STALE = HARD.replace(lag=2)
NEVER = {"generate.trigger.after": 1000}


NOBODY = built(PolicyGradient())[1]


def moved(
    system: str, changes: dict[str, Any] | None = None, bed: Testbed = HARD, steps: int = 3
) -> tuple[Trainer, Batch]:
    """A run after some steps, and its last batch with the log-probabilities of the weights that this batch has changed."""
    run = trainer(system, changes, bed)
    for _ in range(steps):
        run.step()
    batch = run.batch.with_rows(**run.weights.policy.fill(run.batch, ["logp"], grad=False))
    exact = {name: column.double() if column.is_floating_point() else column for name, column in batch.rows.items()}
    return run, batch.with_rows(**exact)


def by_hand(batch: Batch, row: Any) -> Tensor:
    """d loss / d logp of every row, by a plain loop: `row(logp, old, behaviour, advantage, guided, sequence)`."""
    guided = batch.tagged(GUIDED).tolist()
    columns = [batch[name].tolist() for name in ("logp", "logp_old", "logp_behaviour", "advantage")]
    of = batch.sequence.tolist()
    return torch.tensor([row(*values, guided[s], s) for *values, s in zip(*columns, of)], dtype=torch.float64)


def clipped(logp: float, old: float, advantage: float, dual: float = math.inf) -> float:
    """d/dlogp of PPO's clipped surrogate with bounds of 0.2."""
    ratio = math.exp(logp - old)
    flat = (advantage > 0 and ratio > 1.2) or (advantage < 0 and (ratio < 0.8 or ratio > dual))
    return 0.0 if flat else ratio * advantage


def bare(system: str) -> PolicyGradient:
    objective = find(system).algorithm().objective
    assert isinstance(objective, PolicyGradient)
    return objective.replace(regularise=())


# -- nothing guided: the base ------------------------------------------------------------------------------------------------------


@pytest.mark.exact("icpo")
def test_icpo_without_guided_rollouts_is_grpo_bit_for_bit() -> None:
    """The same clipped loss (dual clip 3), mean over tokens, KL and minibatches on the very rollouts of `independent`."""
    ours = weights(trainer("icpo", {"generate.fate.guided": 0}), 3)
    grpo = {
        "objective": {
            "part": "policy_gradient", "trust": {"part": "clip", "dual": 3.0}, "regularise": [{"part": "kl", "coefficient": 0.001}]
        },
        "update.minibatches_per_epoch": 4, "update.reference": "frozen",
    }  # fmt: skip
    assert torch.equal(ours, weights(trainer("grpo", grpo), 3))
    assert not torch.equal(ours, weights(trainer("icpo"), 3))


BASES = {
    "guide-grpo": {
        "filter": {"part": "screen", "survival": ["drop_degenerate"], "rounds": 10},
        "update.minibatches_per_epoch": 2,
    },
    "scaf-grpo": {
        "objective.trust.dual": 3.0, "objective.aggregate": "token_mean", "update.minibatches_per_epoch": 4,
    },
    "ghpo": {"credit.scale.eps": 1e-4, "objective.aggregate": "group_mean"},
}  # fmt: skip


@pytest.mark.exact("guide-grpo", "scaf-grpo", "ghpo")
@pytest.mark.parametrize("name", BASES)
def test_where_no_prompt_is_given_help_it_is_grpo_bit_for_bit(name: str) -> None:
    """What GRPO is given beside is no help: the filter, the divisor and the minibatches of the method."""
    off = weights(trainer(name, NEVER), 4)
    assert torch.equal(off, weights(trainer("grpo", BASES[name]), 4))
    assert not torch.equal(weights(trainer(name, bed=HARD), 2), weights(trainer("grpo", BASES[name], HARD), 2))


def test_solved_prompts_cost_no_further_call_of_the_engine() -> None:
    """With a success in every group the sampler is asked once a step."""
    easy = Testbed(vocabulary=3, horizon=1, prompts=1, batch=1, group=16)
    for name in BASES:
        run, calls = trainer(name, bed=easy), []
        generate = run.world.sampler.generate
        run.world.sampler.generate = lambda requests, generate=generate, calls=calls: (
            calls.append(0) or generate(requests)
        )
        run.step()
        assert all(g.rewards.max() == 1 and not t.guidance for g in run.producer.fresh for t in g.trajectories), name
        assert len(calls) == 1, name


# -- ICPO ------------------------------------------------------------------------------------------------------------------------


SAME = {"generate.guides": {"part": "prefixes", "template": "{prompt} +{guide}", "shares": [1.0]}}
LITTLE = {"generate.guides": {"part": "prefixes", "template": "{prompt} +{guide}", "shares": [0.3]}}
"""Examples that help on this bed: all of the very solution but its last letter, or as good as nothing."""


@pytest.mark.exact("icpo")
@pytest.mark.parametrize("bed", [HARD, STALE], ids=["fresh", "stale"])
def test_icpos_gradient_is_that_of_the_release(bed: Testbed) -> None:
    """Guided tokens: A 0.1 p / (p + 0.1)^2, whoever sampled them; the others: the clipped ratio with dual clip; one mean over
    tokens."""
    _, batch = moved("icpo", SAME, bed)
    assert batch.tagged(GUIDED).any() and not batch.tagged(GUIDED).all()
    assert float((batch["logp"] - batch["logp_old"]).abs().max()) > 0.05, "the weights have moved"

    def row(logp: float, old: float, behaviour: float, advantage: float, guided: bool, s: int) -> float:
        p = math.exp(logp)
        return advantage * 0.1 * p / (p + 0.1) ** 2 if guided else clipped(logp, old, advantage, 3.0)

    expected = -by_hand(batch, row) / len(batch)
    found = slope(bare("icpo"), batch)
    assert float(expected.norm()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    mine = batch.spread(batch.tagged(GUIDED))
    other = batch.with_rows(
        logp_old=torch.where(mine, batch["logp_old"] - 1.0, batch["logp_old"]),
        logp_behaviour=torch.where(mine, batch["logp_behaviour"] + 2.0, batch["logp_behaviour"]),
    )
    torch.testing.assert_close(slope(bare("icpo"), other), found, rtol=0, atol=0)


@pytest.mark.exact("icpo")
def test_icpos_gate_drops_wrong_guided_rollouts_before_the_statistics() -> None:
    """An all-wrong guided member leaves the group of the others as it was; without the gate it is pushed down like any other."""
    run, _ = moved("icpo", LITTLE, steps=2)
    made = [group for group in run.producer.fresh if not group.aside]
    rule = find("icpo").algorithm().filter
    kept = rule.keep(made, built(PolicyGradient())[1])
    for before, after in zip(made, kept):
        stay = [t for t in before.trajectories if not (t.guidance and t.reward < 1)]
        assert [id(t) for t in stay] == [id(t) for t in after.trajectories]
    gone = [g for g in made if any(t.guidance and t.reward < 1 for t in g.trajectories)]
    assert gone, "some guided rollout failed"
    for group in gone:
        alone = Batch.pack([group.replace(trajectories=tuple(t for t in group.trajectories if not t.guidance))])
        again = assign(find("icpo").algorithm(), Batch.pack(rule.keep([group], built(PolicyGradient())[1])))
        torch.testing.assert_close(again["advantage"], assign(find("grpo").algorithm(), alone)["advantage"])


@pytest.mark.exact("icpo")
def test_what_is_paid_for_the_form_lets_no_wrong_answer_through_icpos_gate() -> None:
    """A wrong answer in the right form is paid 1 here, a right one 2: the gate and the bonus ask for the outcome."""
    rules = {"correct": lambda p, text: float(text[:1] == "ab"[p]), "form": lambda p, text: 1.0}
    both = lambda graph: rule_task(graph, 2, rules, lambda p: "ab"[p])
    bed = Testbed(vocabulary=3, horizon=2, prompts=2, batch=2, group=12, task=both, set={"generate.fate.guided": 8})
    run, batch = moved("icpo", {"credit.shaping": [{"part": "guided_bonus"}]}, bed)
    made = [t for g in run.producer.fresh if not g.aside for t in g.trajectories if t.guidance]
    right = [t.rewards["correct"] == 1 for t in made]
    assert any(right) and not all(right) and all(t.reward >= 1 for t in made)
    kept = [t for t in batch.trajectories if t.guidance]
    assert len(kept) == sum(right) and all(t.rewards["correct"] == 1 for t in kept)
    (shaping,) = run.algorithm.credit.shaping
    shaped = shaping.shape(Batch.pack([g for g in run.producer.fresh if not g.aside]), built(PolicyGradient())[1])
    worth = {(bool(t.guidance), t.rewards["correct"]): set() for t in shaped.trajectories}
    for t, value in zip(shaped.trajectories, shaped.sequences["reward"].tolist()):
        worth[bool(t.guidance), t.rewards["correct"]].add(round(value, 6))
    assert worth[True, 0.0] == {1.0} and worth[True, 1.0] == {3.0} and worth[False, 0.0] == {1.0}


@pytest.mark.exact("icpo")
def test_the_bonus_doubles_a_right_guided_rollout_at_first_and_is_gone_at_the_end() -> None:
    _, batch = moved("icpo", SAME)
    shaping = Algorithm().set({"credit.shaping": [{"part": "guided_bonus"}]}).credit.shaping[0]
    mine = batch.tagged(GUIDED) & (batch.sequences["reward"] >= 1)
    assert mine.any()
    for step, worth in ((0, 2.0), (50, 1.5), (100, 1.0)):
        shaped = shaping.shape(batch, built(PolicyGradient(), step)[1]).sequences["reward"]
        assert shaped[mine].tolist() == pytest.approx([worth] * int(mine.sum()))
        torch.testing.assert_close(shaped[~mine], batch.sequences["reward"][~mine])


# -- Guide ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("guide-grpo")
@pytest.mark.parametrize("bed", [HARD, STALE], ids=["fresh", "stale"])
def test_guides_gradient_is_that_of_the_release(bed: Testbed) -> None:
    """Guided: f(rho) = rho / (rho + gamma), rho = pi(a | q) / pi_sampler(a | q, g), gamma the 0.9 quantile of the answer's ratios, no
    clip; the others: PPO's clip; mean over each answer, then over answers."""
    _, batch = moved("guide-grpo", bed=bed)
    tagged = batch.tagged(GUIDED)
    assert tagged.any()
    ratios = (batch["logp"] - batch["logp_behaviour"]).exp().numpy()
    of, lengths = batch.sequence.numpy(), batch.sequences["length"].tolist()
    gamma = [max(1e-4, float(np.quantile(ratios[of == s], 0.9))) for s in range(batch.n_sequences)]

    def row(logp: float, old: float, behaviour: float, advantage: float, guided: bool, s: int) -> float:
        rho = math.exp(logp - behaviour)
        weight = advantage * rho * gamma[s] / (rho + gamma[s]) ** 2 if guided else clipped(logp, old, advantage)
        return weight / lengths[s]

    expected = -by_hand(batch, row) / batch.n_sequences
    assert float(expected.norm()) > 1e-4
    torch.testing.assert_close(slope(bare("guide-grpo"), batch), expected, rtol=1e-10, atol=1e-14)
    mine = batch.spread(tagged)
    share = (
        slope(bare("guide-grpo").replace(aggregate=SequenceSum()), batch) * batch.n_sequences / batch["advantage"]
    ).abs()
    assert float(share[mine & (batch["advantage"] != 0)].max()) <= 0.25 + 1e-12, "f is no steeper than a quarter"


@pytest.mark.exact("guide-grpo")
def test_the_ratio_over_the_guided_sampler_gives_the_plain_policy_gradient() -> None:
    """With f = id and a ratio of whole answers, the expectation over guided answers is the gradient of the plain success rate: every
    answer of the bed is written out with its probability behind the hint."""
    run = trainer("guide-grpo", bed=HARD)
    run.step()
    group = next(g for g in run.groups if g.trajectories[0].guidance)
    policy, problem = run.world.policy, group.problem
    everything, chance = _every_answer(group, policy)
    batch = Batch.pack([everything], dtype=torch.float64)
    logp = policy.fill(batch, ["logp"], grad=True)["logp"]
    reward = batch.sequences["reward"].double()
    ratio = SequenceRatio(denominator="behaviour", normalise=False)
    surrogate = Unclipped().surrogate(
        GuidedRatio(guided=ratio).log_ratio(batch.with_rows(logp=logp, logp_old=logp.detach()), NOBODY),
        batch.spread(reward / batch.sequences["length"]), batch, NOBODY,
    )  # fmt: skip
    value = (torch.zeros(batch.n_sequences, dtype=torch.float64).index_add(0, batch.sequence, surrogate) * chance).sum()
    (found,) = torch.autograd.grad(value, policy.weight, retain_graph=True)
    plain = batch.sequence_sum(logp).exp()
    (expected,) = torch.autograd.grad((plain * reward).sum(), policy.weight)
    assert float(expected.norm()) > 1e-5 and abs(float(chance.sum()) - 1) < 1e-12 and problem.answer
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def _every_answer(group: Group, policy: Any) -> tuple[Group, Tensor]:
    """Every answer to the group's problem as if sampled behind its guide, and the probability of each."""
    graph, model = policy.graph, group.trajectories[0]
    seen, plain = model.content.shown, model.content.tokens[: int(model.content.actions[0])]
    answers = []
    for length in range(1, graph.horizon + 1):
        for letters in itertools.product(range(1, graph.vocabulary), repeat=length - 1):
            ends = range(graph.vocabulary) if length == graph.horizon else (0,)
            answers += [(*letters, end) for end in ends]
    made = []
    for answer in answers:
        n = len(answer)
        content = replace(
            model.content, tokens=np.concatenate([plain, answer]).astype(np.int32),
            roles=np.array([0] * len(plain) + [1] * n, dtype=np.int8),
        )  # fmt: skip
        made.append(model.replace(content=content, logp=np.zeros(n), version=np.zeros(n, np.int64), entropy=None, turn=None,
                                  log_mass=None, text=policy.decode(np.array(answer))))  # fmt: skip
    told = [t.replace(content=replace(t.content, tokens=np.concatenate([seen, t.content.tokens[len(plain):]]), shown=None,
                                      roles=np.array([0] * len(seen) + [1] * len(t)))) for t in made]  # fmt: skip
    rows = policy.fill(Batch.pack([group.replace(trajectories=tuple(told))], torch.float64), ["logp"], grad=False)[
        "logp"
    ]
    each = torch.split(rows, [len(t) for t in made])
    target = group.problem.answer
    done = [t.replace(logp=logp.numpy(), reward=float(t.text[: len(target)] == target)) for t, logp in zip(made, each)]
    return group.replace(trajectories=tuple(done)), torch.stack([logp.sum() for logp in each]).exp()


@pytest.mark.exact("guide-grpo")
def test_a_guided_group_shares_no_statistics_and_a_hint_that_is_ignored_changes_no_ratio() -> None:
    run = trainer("guide-grpo", {"filter": "screen"}, HARD)
    run.step()
    for group in run.groups:
        assert len({bool(t.guidance) for t in group.trajectories}) == 1 and len(group.trajectories) == HARD.group
    failed = [g for g in run.producer.fresh if g.aside]
    assert failed and all(t.reward == 0 and not t.guidance for g in failed for t in g.trajectories)
    deaf = trainer("guide-grpo", {"filter": "screen"}, HARD.replace(prepare=_deaf))
    deaf.step()
    batch = deaf.batch
    assert batch.tagged(GUIDED).any()
    torch.testing.assert_close(batch["logp_old"].float(), batch["logp_behaviour"], rtol=1e-6, atol=1e-6)


def _deaf(policy: Any, seed: int) -> None:
    policy.copying = 0.0


def test_saturating_with_one_row_no_rows_and_masked_rows_is_finite_and_counts_what_counts() -> None:
    _, batch = moved("guide-grpo")
    objective = PolicyGradient(
        ratio=GuidedRatio(), trust=GuidedTrust(guided=Saturating(quantile=0.9)), aggregate=TokenMean()
    )
    for chosen in ([], [0], [int(batch.tagged(GUIDED).nonzero()[0])]):
        few = batch.select(torch.tensor(chosen, dtype=torch.int64))
        assert bool(torch.isfinite(slope(objective, few)).all())
    mask = torch.ones(len(batch), dtype=torch.float64)
    mask[::2] = 0
    masked = batch.with_rows(weight=mask)
    louder = masked.with_rows(logp=torch.where(mask > 0, batch["logp"], batch["logp"] - 3))
    torch.testing.assert_close(slope(objective, masked)[mask > 0], slope(objective, louder)[mask > 0], rtol=0, atol=0)
    assert bool((slope(objective, masked)[mask == 0] == 0).all())
    nothing = batch.with_rows(weight=torch.zeros(len(batch), dtype=torch.float64))
    assert bool((slope(objective, nothing) == 0).all())


# -- Scaf-GRPO ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("scaf-grpo")
def test_the_rescue_is_the_least_telling_right_one_and_its_advantage_the_closed_form() -> None:
    run = trainer("scaf-grpo", {"generate.trigger.after": 0}, HARD.replace(group=8))
    rescued = 0
    for _ in range(3):
        run.step()
        unused = {g.prompt: g.trajectories for g in run.producer.fresh if g.aside}
        for group in run.groups:
            helped = [n for n, t in enumerate(group.trajectories) if t.guidance]
            if not helped:
                continue
            rescued += 1
            (place,) = helped
            chosen = group.trajectories[place]
            assert place == 0 and chosen.reward == 1 and group.rewards.sum() == 1 and len(group.rewards) == 8
            assert all(
                t.reward == 0 for t in unused[group.prompt] if t.guidance and t.extra["level"] < chosen.extra["level"]
            )
            assert any(not t.guidance for t in unused[group.prompt]), "the failed member it stands for is kept aside"
            credited = assign(find("scaf-grpo").algorithm(), Batch.pack([group], torch.float64)).sequences["advantage"]
            sample = credited * (1 + 1e-6 / math.sqrt(1 / 8))
            assert sample.tolist() == pytest.approx([7 / math.sqrt(8)] + [-1 / math.sqrt(8)] * 7)
    assert rescued
    assert 7 / math.sqrt(8) == pytest.approx(2.47, abs=0.01)


@pytest.mark.exact("scaf-grpo")
def test_a_rescue_is_trained_where_it_was_sampled_or_stripped_of_its_hint() -> None:
    """Full: the hint is context in numerator and denominator. Strip: the plain prompt, and the ratio still starts at 1."""
    for trained, tokens in (("shown", "hint"), ("plain", "plain")):
        changes = {"generate.trigger.after": 0, "generate.trained": trained, "update.minibatches_per_epoch": 1}
        run = trainer("scaf-grpo", changes, HARD)
        run.step()
        run.step()
        helped = [(g, t) for g in run.groups for t in g.trajectories if t.guidance]
        assert helped
        for group, t in helped:
            plain = run.world.policy.encode(group.problem.messages)
            first = t.content.tokens[: int(t.content.actions[0])]
            assert np.array_equal(first, plain) == (tokens == "plain")
            assert (t.content.shown is not None) == (tokens == "plain")
        objective = run.algorithm.objective
        batch = run.batch.with_rows(logp=run.batch["logp_old"])
        assert float(objective.ratio.log_ratio(batch, built(objective)[1]).abs().max()) == 0
        start = torch.tensor([t.version.max() for g in run.groups for t in g.trajectories])
        assert bool((start == start.max()).all())


@pytest.mark.exact("scaf-grpo")
def test_the_exempt_beginning_is_grpo() -> None:
    """After 0.2 of 20 steps: four steps without a hint, then some."""
    run = trainer("scaf-grpo", {"generate.trigger.after": 0.2}, HARD)
    found = [run.step()["generate/guided_share"] for _ in range(6)]
    assert found[:4] == [0, 0, 0, 0] and max(found[4:]) > 0


# -- GHPO ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("ghpo")
def test_every_prompt_ends_at_the_smallest_share_that_helps() -> None:
    run = trainer("ghpo", bed=HARD)
    calls = []
    generate = run.world.sampler.generate
    run.world.sampler.generate = lambda requests: calls.append(len(requests)) or generate(requests)
    for _ in range(3):
        calls.clear()
        run.step()
        assert len(calls) <= 4
        for group in run.groups:
            before = [g for g in run.producer.fresh if g.aside and g.prompt == group.prompt]
            assert all(t.reward == 0 for g in before for t in g.trajectories)
            levels = [g.trajectories[0].extra.get("level", -1) for g in (*before, group)]
            assert levels == list(range(-1, len(levels) - 1)), "one share after the other, from none"
            assert group.rewards.max() == 1 or levels[-1] == 1, (
                "solved, or at the last share (of two: 0.5 and 0.75 are the same here)"
            )
            assert len({t.content.tokens[0] for t in group.trajectories}) == 1, "one prompt for the whole group"
            told = [t.extra["guide"] for g in (*before, group) for t in g.trajectories[:1] if t.guidance]
            assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(told))


@pytest.mark.exact("ghpo")
def test_ghpo_is_on_policy_behind_its_hint_and_never_trains_it() -> None:
    _, batch = moved("ghpo", steps=2)
    assert not batch.tagged(GUIDED).any() and any(t.guidance for t in batch.trajectories)
    for t in batch.trajectories:
        assert t.content.shown is None and len(t.content.actions) == len(t) and t.content.roles[0] == 0
    torch.testing.assert_close(batch["logp_old"], batch["logp_behaviour"], rtol=1e-6, atol=1e-6)
    credited = batch.sequences["advantage"].numpy()
    of, rewards, group = batch.group.numpy(), batch.sequences["reward"].numpy(), np.unique(batch.group)
    for g in group:
        r = rewards[of == g]
        spread = r.std(ddof=1) + 1e-4 if r.std() > 0 else 1.0
        np.testing.assert_allclose(credited[of == g], (r - r.mean()) / spread, rtol=1e-5, atol=1e-7)
    rows = torch.zeros(len(batch), dtype=torch.float64)
    for g in group:
        mine = batch.row_group == int(g)
        rows[mine] = (
            batch["advantage"][mine].double()
            * (batch["logp"] - batch["logp_old"])[mine].exp()
            / (mine.sum() * len(group))
        )
    ratio = (batch["logp"] - batch["logp_old"]).exp()
    flat = ((batch["advantage"] > 0) & (ratio > 1.2)) | ((batch["advantage"] < 0) & (ratio < 0.8))
    torch.testing.assert_close(slope(bare("ghpo"), batch), -torch.where(flat, 0.0, rows), rtol=1e-6, atol=1e-10)


# -- SAGE ---------------------------------------------------------------------------------------------------------------------------


BASES_OF_THE_OTHERS = {
    "sage-hint": {
        "objective.trust.high": 0.28, "objective.aggregate": "token_mean", "update.minibatches_per_epoch": 2,
    },
    "pope": {},
}  # fmt: skip


@pytest.mark.exact("sage-hint", "pope")
@pytest.mark.parametrize("name", BASES_OF_THE_OTHERS)
def test_without_help_the_others_are_grpo_bit_for_bit_too(name: str) -> None:
    base = BASES_OF_THE_OTHERS[name]
    assert torch.equal(weights(trainer(name, NEVER), 4), weights(trainer("grpo", base), 4))
    assert not torch.equal(weights(trainer(name, bed=HARD), 3), weights(trainer("grpo", base, HARD), 3))


@pytest.mark.exact("sage-hint")
def test_written_hints_are_read_from_one_object_whatever_stands_around_it() -> None:
    whole = '{"level_1": "a", "level_2": " b ", "level_3": "c"}'
    assert written(f"Sure!\n```json\n{whole}\n```\nBye {{") == ["a", "b", "c"]
    assert written('{"level_3": "c", "level_1": "a\nb"}') == ["a\nb", "c"]
    formulas = r'With \(x^{2}\) and {a}: {"level_1": "Use \(x\).", "level_2": "\frac{1}{2} \times\n2, \"half\""}'
    assert written(formulas) == [r"Use \(x\).", r"\frac{1}{2} \times" + '\n2, "half"']
    assert written('{"hints": {"level_1": "a"}}') == ["a"] and written('{"level_4": "x"} {"level_1": "a"}') == ["a"]
    for reply in ("", "no", "{", '{"level_1": 3}', '["level_1"]', '{"level_1": ""}', "{" * 5000, '{"level_1": "cut'):
        assert written(reply) == [], reply


class Tutor(EnumerablePolicy):
    """Can be asked for hints: a request is -1 and its letters."""

    context = 4096

    def encode(self, messages: Any) -> np.ndarray:
        text = messages[-1]["content"]
        return np.array([-1, *map(ord, text)]) if "tutor" in text else super().encode(messages)


class Tutored:
    """The sampler of the bed, which answers a request for hints with what `replies` has for it."""

    exact = True

    def __init__(self, inner: Any, replies: list[str]) -> None:
        self.inner, self.replies, self.requests = inner, replies, []

    def forget(self) -> None:
        self.inner.forget()

    def generate(self, requests: Any) -> list[Any]:
        if requests and requests[0].tokens[0] != -1:
            return self.inner.generate(requests)
        self.requests.append(["".join(map(chr, r.tokens[1:])) for r in requests])
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        return [
            replace(self.inner.generate([_asked(r)])[0], tokens=np.array([ord(c) for c in reply])) for r in requests
        ]


def _asked(request: Any) -> Any:
    return replace(request, tokens=np.array([4]), sampling=replace(request.sampling, max_new=1))


def _tutored(replies: list[str], changes: dict[str, Any] | None = None) -> tuple[Trainer, Tutored]:
    run = trainer("sage-hint", changes, HARD)
    policy = run.world.policy
    decode = policy.decode
    policy.__class__ = Tutor
    object.__setattr__(
        policy, "decode", lambda tokens: "".join(map(chr, tokens)) if np.max(tokens, initial=0) > 20 else decode(tokens)
    )
    sampler = Tutored(run.world.sampler, replies)
    run.world.sampler = sampler
    return run, sampler


@pytest.mark.exact("sage-hint")
def test_sage_asks_once_for_all_levels_and_goes_up_them_only_while_all_fail() -> None:
    """The hints are the policy's own, the request shows question and solution, rounds are at most four, and a group has one
    context."""
    run, sampler = _tutored(['{"level_1": "a", "level_2": "ab", "level_3": "abc"}'])
    metrics = run.step()
    failed = [g for g in run.producer.fresh if g.aside and not g.trajectories[0].guidance]
    assert (
        metrics["generate/written_share"] == 1.0
        and len(sampler.requests) == 1
        and len(sampler.requests[0]) == len(failed) > 0
    )
    for text, group in zip(sorted(sampler.requests[0]), sorted(failed, key=lambda g: g.prompt)):
        assert group.problem.answer in text and question(group.problem) in text
    for group in run.groups:
        levels = {t.extra.get("level", -1) for t in group.trajectories}
        assert len(levels) == 1 and {t.guidance for t in group.trajectories} <= {"", "written"}
        before = [g for g in run.producer.fresh if g.aside and g.prompt == group.prompt]
        assert len(before) == levels.pop() + 1 and all(g.rewards.max() == 0 for g in before)
        assert group.rewards.max() == 1 or len(before) in (0, 3), "an unsolved prompt keeps its last group"
    assert all(t.reward == run.world.task.score(t.prompt, t.text) for g in run.groups for t in g.trajectories), (
        "scored without the hint"
    )


@pytest.mark.exact("sage-hint")
def test_unreadable_hints_are_asked_for_three_times_and_then_left() -> None:
    run, sampler = _tutored(["no", "{", "still no"], {"generate.guides.otherwise": "none"})
    metrics = run.step()
    assert (
        len(sampler.requests) == 3
        and metrics["generate/guided_share"] == 0.0
        and not any(g.aside for g in run.producer.fresh)
    )
    run, sampler = _tutored(["no", '{"level_1": "a"}'])
    assert run.step()["generate/written_share"] == 1.0 and len(sampler.requests) == 2
    run, sampler = _tutored(["no"])
    assert run.step()["generate/written_share"] == 0.0
    helped = [t for g in run.producer.fresh for t in g.trajectories if t.guidance]
    assert helped and all(
        t.extra["guide"] in g.problem.hints for g in run.producer.fresh for t in g.trajectories if t.guidance
    )


# -- POPE ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("pope")
def test_popes_beginning_is_the_shortest_that_helped_and_is_kept() -> None:
    run = trainer("pope", {"generate.guides.tries": 6}, HARD)
    run.step()
    kept = dict(run.memory.states["generate.guides"]["kept"])
    assert kept
    for prompt, level in kept.items():
        tried = [g for g in run.producer.fresh if g.aside and g.prompt == prompt]
        assert [g.trajectories[0].extra["level"] for g in tried] == list(range(len(tried))) and all(
            len(g.trajectories) == 6 for g in tried
        )
        assert all(g.rewards.max() == 0 for g in tried[:-1])
        assert level == len(tried) - 1, "found at this piece, or the longest"
    for _ in range(3):
        run.step()
        assert kept == run.memory.states["generate.guides"]["kept"] or len(
            run.memory.states["generate.guides"]["kept"]
        ) > len(kept)
        assert not any(g.aside for g in run.producer.fresh if g.prompt in kept), "no second search"


@pytest.mark.exact("pope")
def test_a_hard_prompt_has_two_groups_that_share_no_statistics_and_no_ratio_sees_the_other_prompt() -> None:
    run, batch = moved("pope", steps=3)
    hard = run.memory.states["generate.trigger"]["hard"]
    by_prompt: dict[int, list[Group]] = {}
    for group in run.groups:
        by_prompt.setdefault(group.prompt, []).append(group)
    assert any(hard.values())
    for prompt, groups in by_prompt.items():
        assert [len({t.guidance for t in g.trajectories}) for g in groups] == [1] * len(groups)
        assert [bool(g.trajectories[0].guidance) for g in groups] == ([False, True] if hard[prompt] else [False])
    torch.testing.assert_close(batch["logp_old"], batch["logp_behaviour"], rtol=1e-6, atol=1e-6)
    assert all(t.content.shown is None for t in batch.trajectories)
    whole = assign(find("pope").algorithm(), Batch.pack(run.groups, torch.float64)).sequences["advantage"]
    alone = [
        assign(find("grpo").algorithm(), Batch.pack([g], torch.float64)).sequences["advantage"] for g in run.groups
    ]
    torch.testing.assert_close(whole, torch.cat(alone))
    problems = {g.prompt: g.problem for g in run.groups}
    assert all(problems[t.prompt].answer not in t.extra["guide"] for t in batch.trajectories if t.guidance)


# -- NudgeRL ------------------------------------------------------------------------------------------------------------------------


NUDGED = HARD.replace(reward="binary", group=8)


@pytest.mark.exact("nudgerl")
def test_without_contexts_and_distillation_nudgerl_is_grpo_bit_for_bit() -> None:
    """Every context dropped, weight 0 beside: GRPO with the population's deviation, on the very rollouts of `independent`."""
    off = {"generate.fate.dropout": 1.0, "objective.regularise": [], "generate.top_p": 1.0}
    base = {"credit.scale.ddof": 0, "credit.scale.eps": 1e-5, "update.minibatches_per_epoch": 2}
    assert torch.equal(weights(trainer("nudgerl", off, NUDGED), 3), weights(trainer("grpo", base, NUDGED), 3))
    assert not torch.equal(weights(trainer("nudgerl", None, NUDGED), 3), weights(trainer("grpo", base, NUDGED), 3))


@pytest.mark.exact("nudgerl")
def test_nudgerls_advantage_is_that_of_the_release() -> None:
    """Two levels, then standardised over the group; between = 1 is GRPO's, 0 makes every context's sum to nothing."""
    _, batch = moved("nudgerl", bed=NUDGED, steps=2)
    contexts = batch.sequences["key/context"].numpy()
    rewards, group = batch.sequences["reward"].double().numpy(), batch.group.numpy()
    assert {-1, 0, 1} <= set(contexts.tolist())
    for between in (1.1, 1.0, 0.0):
        found = (
            assign(find("nudgerl").algorithm().set({"credit.centre.between": between}), batch)
            .sequences["advantage"]
            .numpy()
        )
        for g in range(batch.n_groups):
            mine = group == g
            r, c = rewards[mine], contexts[mine]
            own = np.array([r[c == k].mean() for k in c])
            raw = np.where(c >= 0, r - own + between * (own - r.mean()), r - r.mean())
            expected = (raw - raw.mean()) / (raw.std() + 1e-5) if raw.std() > 0 else np.zeros_like(raw)
            np.testing.assert_allclose(found[mine], expected, rtol=1e-5, atol=1e-6)
            if between == 1.0 and r.std() > 0:
                np.testing.assert_allclose(found[mine], (r - r.mean()) / (r.std() + 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.exact("nudgerl")
def test_nudgerls_two_terms_are_those_of_the_release_after_a_change_of_weights() -> None:
    """The clipped ratio on the prompt that was sampled from, and 0.1 A times the mean log-probability on the plain one."""
    run, batch = moved("nudgerl", {"generate.top_p": 1.0}, NUDGED, steps=3)
    policy = run.weights.policy
    batch = look(batch, (Plain(),), policy)
    batch = batch.with_rows(**policy.fill(batch, ["logp@plain"], grad=False))
    guided = torch.tensor([bool(t.guidance) for t in batch.trajectories])[batch.sequence]
    gap = (batch["logp"] - batch["logp@plain"]).abs()
    assert float(gap[guided].max()) > 0.1 and float(gap[~guided].max()) < 1e-12
    lengths, advantage = batch.sequences["length"].tolist(), batch["advantage"]
    expected = -by_hand(batch, lambda p, old, b, a, g, s: clipped(p, old, a) / lengths[s]) / batch.n_sequences
    objective = find("nudgerl").algorithm().objective
    torch.testing.assert_close(slope(objective, batch), expected, rtol=1e-8, atol=1e-12)
    part, ctx = built(objective)
    leaf = batch["logp@plain"].clone().requires_grad_()
    (found,) = torch.autograd.grad(part.loss(batch.with_rows(**{"logp@plain": leaf}), ctx), leaf)
    divisor = torch.tensor([n * batch.n_sequences for n in lengths], dtype=torch.float64)[batch.sequence]
    torch.testing.assert_close(found, -0.1 * advantage / divisor, rtol=1e-10, atol=1e-14)


@pytest.mark.exact("nudgerl")
def test_contexts_share_the_rollouts_and_lose_half_of_them() -> None:
    """Eight rollouts, two contexts: each rollout keeps its own with probability one half; a prompt with one hint has none."""
    run = trainer("nudgerl", None, NUDGED)
    kept = []
    for _ in range(12):
        run.step()
        for group in run.groups:
            told = [t.keys.get("context", -1) for t in group.trajectories]
            assert len(told) == 8 and max(told.count(0), told.count(1)) <= 4
            assert all((t.extra["level"] if t.guidance else -1) == c for t, c in zip(group.trajectories, told))
            assert len({t.sample for t in group.trajectories}) == 8
            kept += [c >= 0 for c in told]
    assert np.mean(kept) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(kept)))
    short = trainer("nudgerl", {"generate.fate.contexts": 4}, NUDGED)
    assert short.step()["generate/guided_share"] == 0.0
