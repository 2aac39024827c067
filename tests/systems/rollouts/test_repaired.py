"""The exact properties of `anypo.systems.rollouts.repaired`, as the papers and releases state them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from making_rows import make
from making_systems import slope, trainer, weights

from anypo.claims.beds import repairs
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.pipeline import Pipeline
from anypo.credit.shape.amplified import Amplified
from anypo.data.records import GUIDED
from anypo.run.trainer import Trainer
from anypo.systems import find

CHAINS = Testbed(vocabulary=5, horizon=5, prompts=4, batch=4, group=8, lr=0.2, task=repairs.chains)
"""Five steps of two right letters out of four: each is right or wrong by itself."""


def played(judge: str = "judge", teacher: str = "teacher") -> list[dict[str, str]]:
    home = "anypo.claims.beds.repairs"
    return [{"role": "prm", "model": f"{home}:{judge}"}, {"role": "teacher", "model": f"{home}:{teacher}"}]


SCOPE: dict[str, Any] = {
    "generate.delimiter": "", "generate.faults.question": repairs.QUESTION, "models": played()
}  # fmt: skip


def corrected(run: Trainer) -> list[tuple[Any, Any, Any]]:
    """(group, rollout, the one whose place it took) of the last step."""
    kept = [g for g in run.producer.fresh if not g.aside]
    gone = {(g.prompt, g.visit, t.sample): t for g in run.producer.fresh if g.aside for t in g.trajectories}
    return [(g, t, gone[g.prompt, g.visit, t.sample]) for g in kept for t in g.trajectories if t.guidance]


# -- SCOPE -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("scope-rlvr")
def test_a_correction_keeps_the_right_steps_before_the_first_wrong_one_and_nothing_behind() -> None:
    run, seen = trainer("scope-rlvr", SCOPE, CHAINS), 0
    for _ in range(4):
        run.step()
        for group, ours, theirs in corrected(run):
            prompt, right = (
                group.problem.prompt,
                [letter in repairs.right_letters(group.problem.prompt, at) for at, letter in enumerate(theirs.text)],
            )
            first = right.index(False)
            assert ours.fork == first >= 0.3 * len(theirs.text)
            assert ours.text[:first] == theirs.text[:first] and ours.text[first] != theirs.text[first]
            assert ours.text[first:] == repairs.teacher([f"p{prompt}\n\n{theirs.text[:first]}"])[0]
            np.testing.assert_array_equal(ours.logp[:first], theirs.logp[:first])
            assert (ours.version[:first] == theirs.version[:first]).all() and (ours.version[first:] == -1).all()
            assert not ours.logp[first:].any() and ours.tag == GUIDED
            assert theirs.reward == 0 and ours.reward == 1 and len(group.trajectories) == 8
            others = [t.text for t in group.trajectories if not t.guidance and t.reward < 1]
            for text in others:
                wrong = [n for n, letter in enumerate(text) if letter not in repairs.right_letters(prompt, n)]
                assert not wrong or wrong[0] / len(text) <= first / len(theirs.text), "the one with most right steps"
            seen += 1
    assert seen > 8


@pytest.mark.exact("scope-rlvr")
def test_without_a_trigger_or_a_wrong_step_it_is_grpo_bit_for_bit() -> None:
    grpo = weights(trainer("grpo", bed=CHAINS), 4)
    for off in (
        {"generate.replaced": 0},
        {"generate.trigger.after": 1000},
        {"generate.faults.theta": 0.0},  # no verdict is below it
        {"generate.floor": 0.99},
    ):
        assert torch.equal(weights(trainer("scope-rlvr", {**SCOPE, **off}, CHAINS), 4), grpo), off
    assert not torch.equal(weights(trainer("scope-rlvr", SCOPE, CHAINS), 4), grpo)


@pytest.mark.exact("scope-rlvr")
def test_the_advantage_is_that_of_the_edited_groups_outcomes_whatever_the_verdicts_are() -> None:
    """Groups of edited 0/1 outcomes, mean and sample deviation; verdicts of 10 and of 6 in 10 for right steps train alike."""
    run = trainer("scope-rlvr", SCOPE, CHAINS)
    run.step()
    batch, some = run.batch, 0
    for group in range(batch.n_groups):
        mine = batch.group == group
        rewards = batch.sequences["reward"][mine].double()
        if rewards.std() == 0:
            continue
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for sequence, advantage in zip(mine.nonzero().flatten().tolist(), expected.tolist()):
            found = batch["advantage"][batch.sequence == sequence].double()
            torch.testing.assert_close(found, torch.full_like(found, advantage), rtol=1e-4, atol=1e-5)
        some += 1
    assert some
    loose = {**SCOPE, "models": played("judge_mild")}
    assert torch.equal(
        weights(trainer("scope-rlvr", SCOPE, CHAINS), 3), weights(trainer("scope-rlvr", loose, CHAINS), 3)
    )


@pytest.mark.exact("scope-rlvr")
@pytest.mark.parametrize("lag", [0, 2])
def test_the_gradient_has_two_regimes_within_one_answer(lag: int) -> None:
    """After the weights have moved: rows before the fork have PPO's clipped ratio, those from it on A 0.1 p / (p + 0.1)^2, whoever is
    the sampler; mean over each answer's tokens, then over answers."""
    run = trainer("scope-rlvr", SCOPE, CHAINS.replace(lag=lag))
    for _ in range(3):
        run.step()
    batch = run.batch.with_rows(**run.weights.policy.fill(run.batch, ["logp"], grad=False))
    batch = batch.with_rows(**{n: c.double() if c.is_floating_point() else c for n, c in batch.rows.items()})
    assert float((batch["logp"] - batch["logp_old"]).abs().max()) > 0.05, "the weights have moved"
    expected, both = [], 0
    for sequence in range(batch.n_sequences):
        rows = (batch.sequence == sequence).nonzero().flatten().tolist()
        t = batch.trajectories[sequence]
        both += 0 < t.fork < len(t)
        for place, row in enumerate(rows):
            logp, old, a = (float(batch[name][row]) for name in ("logp", "logp_old", "advantage"))
            if t.guidance and place >= t.fork:
                value = a * 0.1 * math.exp(logp) / (math.exp(logp) + 0.1) ** 2
            else:
                ratio = math.exp(logp - old)
                value = 0.0 if (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8) else a * ratio
            expected.append(-value / len(rows) / batch.n_sequences)
    assert both, "some answers have both"
    found = slope(find("scope-rlvr").algorithm().objective, batch)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-13)


@pytest.mark.exact("scope-rlvr")
def test_worked_solutions_do_in_the_place_of_both_models() -> None:
    changes = {
        "generate.delimiter": "", "generate.faults": {"part": "comparison", "delimiter": ""},
        "generate.teacher": {"part": "by_solution", "delimiter": ""},
    }  # fmt: skip
    run, seen = trainer("scope-rlvr", changes, CHAINS), 0
    for _ in range(3):
        run.step()
        for group, ours, theirs in corrected(run):
            solution = group.problem.solution
            first = next(n for n, letter in enumerate(theirs.text) if letter != solution[n])
            assert ours.fork == first and ours.text == solution and not theirs.reward
            seen += 1
    assert seen


# -- Cog-Rethinker -----------------------------------------------------------------------------------------------------------------


HARD = Testbed(vocabulary=4, horizon=4, prompts=4, batch=4, group=8, reward="sparse", lr=0.1)
"""Answers of three letters of three: success about one in sixty."""

COG: dict[str, Any] = {
    "generate.guides.template": "{prompt} +{demos}", "generate.guides.reflection": "{prompt} +{wrong}",
    "generate.guides.decomposed": "{solution}", "credit.shaping": [], "filter.rounds": 1, "update.minibatches_per_epoch": 1,
}  # fmt: skip
DAPO = {"credit.shaping": [], "filter.rounds": 1, "update.minibatches_per_epoch": 1}


@pytest.mark.exact("cog-rethinker")
def test_where_nothing_is_thought_over_it_is_dapo_bit_for_bit() -> None:
    dapo = {**DAPO, "update.minibatches_per_epoch": 2, "filter.rounds": 3}
    off = {**COG, **dapo, "generate.trigger.after": 1000}
    assert torch.equal(weights(trainer("cog-rethinker", off, HARD), 5), weights(trainer("dapo", dapo, HARD), 5))


@pytest.mark.exact("cog-rethinker")
def test_with_a_weight_of_zero_the_thought_over_prompts_teach_nothing() -> None:
    """The gradient is DAPO's on the prompts that some rollouts solve, whatever lies beside them in the batch."""
    ours, theirs = trainer("cog-rethinker", {**COG, "objective.weights.target": 0.0}, HARD), trainer("dapo", DAPO, HARD)
    imitated = 0.0
    for _ in range(6):
        imitated += ours.step()["generate/imitated"]
        theirs.step()
        torch.testing.assert_close(
            ours.weights.policy.weight, theirs.weights.policy.weight, rtol=1e-8, atol=1e-10
        )  # fmt: skip
    assert imitated, "there was something to imitate"
    assert not torch.equal(weights(trainer("cog-rethinker", COG, HARD), 6), theirs.weights.policy.weight)


@pytest.mark.exact("cog-rethinker")
def test_each_stage_costs_as_many_rollouts_and_sees_only_what_the_stage_before_it_failed() -> None:
    run, solved_first, deep = trainer("cog-rethinker", COG, HARD), 0, 0
    for _ in range(6):
        run.step()
        for prompt in {(g.prompt, g.visit) for g in run.producer.fresh}:
            made = [t for g in run.producer.fresh if (g.prompt, g.visit) == prompt for t in g.trajectories]
            stages = [[t for t in made if t.guidance == kind] for kind in ("", "decomposed", "revised")]
            right = [any(t.reward == 1 for t in stage) for stage in stages]
            assert [len(stage) for stage in stages] == [8, 0 if right[0] else 8, 0 if right[0] or right[1] else 8]
            targets = [t for t in made if t.tag == "target"]
            assert targets == [t for stage in stages[1:] for t in stage if t.reward == 1]
            solved_first += right[0]
            deep += bool(stages[2])
    assert solved_first and deep


@pytest.mark.exact("cog-rethinker")
def test_the_loss_is_dapos_plus_a_tenth_of_the_likelihood_of_the_others_on_the_bare_problem() -> None:
    """After the weights have moved: - 0.1 / (answers x their length) on every token of a target, DAPO's clipped token mean on the
    rest; the prompt of a target is the problem alone."""
    run = trainer("cog-rethinker", {**COG, "control.passes": 50.0}, HARD, seed=4)
    for _ in range(12):
        run.step()
        targets = run.batch.tagged("target")
        if targets.any() and not targets.all():
            break
    assert targets.any() and not targets.all()
    batch = run.batch.with_rows(**run.weights.policy.fill(run.batch, ["logp"], grad=False))
    batch = batch.with_rows(**{n: c.double() if c.is_floating_point() else c for n, c in batch.rows.items()})
    policy, tokens = run.world.policy, int((~targets)[batch.sequence].sum())
    expected = []
    for row, sequence in enumerate(batch.sequence.tolist()):
        t = batch.trajectories[sequence]
        logp, old, a = (float(batch[name][row]) for name in ("logp", "logp_old", "advantage"))
        if targets[sequence]:
            problem = batch.problems[batch.group[sequence]]
            assert t.content.tokens[: t.content.actions[0]].tolist() == policy.encode(problem.messages).tolist()
            expected.append(-0.1 / int(targets.sum()) / len(t))
        else:
            ratio = math.exp(logp - old)
            expected.append(0.0 if (a > 0 and ratio > 1.28) or (a < 0 and ratio < 0.8) else -a * ratio / tokens)
    found = slope(find("cog-rethinker").algorithm().objective, batch)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-13)


# -- R3L ---------------------------------------------------------------------------------------------------------------------------


R3L: dict[str, Any] = {
    **repairs.REPORTED, "models": [{"role": "reflector", "model": "anypo.claims.beds.repairs:reflector"}]
}  # fmt: skip


def looked_back(changes: dict[str, Any] | None = None, steps: int = 3) -> Trainer:
    run = trainer("r3l", {**R3L, **(changes or {})}, repairs.WALKS)
    for _ in range(steps):
        run.step()
    return run


@pytest.mark.exact("r3l")
def test_what_two_attempts_share_counts_in_neither_and_the_second_is_trained_without_the_report() -> None:
    run, seen = trainer("r3l", R3L, repairs.WALKS), 0
    for _ in range(3):
        run.step()
        for group in run.producer.fresh:
            firsts = [t for t in group.trajectories if not t.guidance]
            seconds = [t for t in group.trajectories if t.guidance == "retry"]
            if not firsts:
                continue
            assert len(firsts) == 4 and len(seconds) <= 4
            plain = run.world.policy.encode(group.problem.messages).tolist()
            tried = {t.parent for t in seconds if t.fork > 0}
            for t in seconds:
                h = t.extra["pivot"]
                assert t.content.tokens[: t.content.actions[0]].tolist() == plain
                assert t.content.shown is not None and t.content.shown.tolist() != plain
                expected = (t.turn >= h).astype(float) if h else None
                assert (t.weight is None) == (h == 0)
                if h:
                    first = group.trajectories[t.parent]
                    assert t.text[:h] == first.text[:h] and t.fork == h
                    assert t.weight.tolist() == expected.tolist()
                    assert first.weight.tolist() == (first.turn >= h).astype(float).tolist()
                    np.testing.assert_array_equal(t.logp[:h], first.logp[:h])
                    seen += 1
            assert all(t.weight is None for n, t in enumerate(firsts) if n not in tried)
    assert seen > 5


@pytest.mark.exact("r3l")
def test_a_success_that_the_report_led_to_is_a_group_of_its_own_with_the_report_in_view() -> None:
    seen = 0
    run = trainer("r3l", R3L, repairs.WALKS)
    for _ in range(25):
        run.step()
        alone = [g for g in run.producer.fresh if g.trajectories[0].guidance == "guided_retry"]
        for group in alone:
            (t,) = group.trajectories
            twin = next(
                s for g in run.producer.fresh if g.prompt == group.prompt and g is not group and g.trajectories
                for s in g.trajectories if s.guidance == "retry" and s.sample == t.sample
            )  # fmt: skip
            assert t.reward == 1 == twin.reward and t.text == twin.text
            begin = t.content.tokens[: t.content.actions[0]].tolist()
            assert begin == twin.content.shown.tolist() and t.content.shown is None
            assert (t.weight is None) == (twin.weight is None)
            assert t.weight is None or t.weight.tolist() == twin.weight.tolist()
            seen += 1
    assert seen


@pytest.mark.exact("r3l")
def test_the_gradient_is_that_of_the_release() -> None:
    """After the weights have moved: A log pi over all counted tokens plus 0.002 k2 to the initial policy, that is twice the release's
    half of the first plus 0.001 of the second. A = 1 for a success, 3 (r - mean) above and r - mean below the group's mean."""
    run = looked_back(steps=6)
    assert run.step()["update/steps"] == 1, "no script of the release sets what its reuse of a batch needs"
    batch = run.batch.with_rows(**run.weights.policy.fill(run.batch, ["logp"], grad=False))
    batch = batch.with_rows(**{n: c.double() if c.is_floating_point() else c for n, c in batch.rows.items()})
    objective = find("r3l").algorithm().objective
    counted, groups = batch.weight.tolist(), batch.group.tolist()
    rewards = batch.sequences["reward"].double().tolist()
    mean = {g: np.mean([r for r, h in zip(rewards, groups) if h == g]) for g in set(groups)}
    kinds, expected = set(), []
    for row, sequence in enumerate(batch.sequence.tolist()):
        r, b = rewards[sequence], mean[groups[sequence]]
        kind = "success" if r >= 1 else "above" if r > b else "below"
        a = {"success": 1.0, "above": 3 * (r - b), "below": r - b}[kind]
        if counted[row]:
            kinds.add(kind)
            assert float(batch["advantage"][row]) == pytest.approx(a, abs=1e-6)
        moved = float(batch["logp"][row] - batch["logp_ref"][row])
        expected.append(counted[row] * (-float(batch["advantage"][row]) + 0.002 * moved) / sum(counted))
    assert {"above", "below"} <= kinds and 0.0 in counted
    found = slope(objective, batch)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)


@pytest.mark.exact("r3l")
def test_advantages_of_hand_made_groups() -> None:
    """Successes 1, a partial reward above the mean three times its distance, one below it once; a lone success 1, a group of failures
    0; with 0 and 1 the factor never acts; with alpha 1 and no success it is the reward minus the mean."""

    def credit(rewards: list[list[float]], **fields: float) -> list[float]:
        batch = make([[1] * len(group) for group in rewards])
        batch = batch.with_sequences(reward=torch.tensor([r for group in rewards for r in group], dtype=torch.float64))
        part = Pipeline(shape=(Amplified(**fields),))
        return part.assign(batch, Context(0, 1, 0, Memory(part)))["advantage"].tolist()

    assert credit([[1.0, 0.4, 0.1, 0.1]]) == pytest.approx([1.0, 0.0, -0.3, -0.3])
    assert credit([[0.9, 0.1, 0.2]]) == pytest.approx([1.5, -0.3, -0.2])
    assert credit([[1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]) == pytest.approx(
        [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -0.25, -0.25, -0.25]
    )
    assert credit([[0.9, 0.1, 0.2]], alpha=1.0, success=2.0) == pytest.approx([0.5, -0.3, -0.2])


@pytest.mark.exact("r3l")
def test_without_reports_it_is_the_same_loss_on_half_the_rollouts() -> None:
    silent = {**R3L, "models": [{"role": "reflector", "model": "anypo.claims.beds.repairs:mute"}]}
    plain = {"generate": {"part": "independent", "max_new": 1, "turns": 5}, "control.samples": 4}
    assert torch.equal(
        weights(trainer("r3l", silent, repairs.WALKS), 3), weights(trainer("r3l", plain, repairs.WALKS), 3)
    )
    assert not torch.equal(
        weights(trainer("r3l", R3L, repairs.WALKS), 3), weights(trainer("r3l", plain, repairs.WALKS), 3)
    )
