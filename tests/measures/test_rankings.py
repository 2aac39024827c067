"""Ranking accuracy: its theorems on random numbers, its pairs, and a run folder against a count by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anypo.claims.measures.rankings import BETA, train
from anypo.errors import UserError
from anypo.measures.rankings import RankingAccuracy, dpo_loss, flip_threshold, idealised, pairs, ranked, share
from anypo.run.disk.folder import RunFolder
from anypo.run.session import train as run_training
from anypo.scoring import wilson

FINITE = st.floats(-60, 60)


@pytest.mark.exact("ranking-accuracy")
@given(FINITE, FINITE, st.floats(0.01, 5))
def test_a_pair_is_ranked_right_exactly_below_its_threshold(margin: float, reference: float, beta: float) -> None:
    if (
        abs(margin) > 1e-6 and beta * (abs(margin) + abs(reference)) < 25
    ):  # further out both sides are 0 in double precision
        below = dpo_loss(margin, reference, beta) <= flip_threshold(reference, beta)
        assert bool(below) == (margin >= 0)


def test_the_loss_is_that_of_dpo_and_log_two_at_the_reference() -> None:
    margin, reference = np.random.default_rng(0).normal(0, 5, (2, 50))
    expected = -torch.nn.functional.logsigmoid(0.3 * torch.tensor(margin - reference)).numpy()
    assert dpo_loss(margin, reference, 0.3) == pytest.approx(expected, rel=1e-12)
    assert dpo_loss(reference, reference, 0.3) == pytest.approx(math.log(2))
    assert np.isfinite(dpo_loss(-1e6, 1e6, 5.0)) and flip_threshold(-1e6, 5.0) == 0.0


def test_ties_count_and_shares_have_wilsons_interval() -> None:
    right = ranked(np.array([1.0, 2.0, -3.0]), np.array([1.0, 1.0, -2.0]))
    assert right.tolist() == [True, True, False]
    found = share(right)
    assert (found.value, found.low, found.high, found.n, found.unit) == (2 / 3, *wilson(2, 3), 3, "share")
    assert math.isnan(share(np.zeros(0, bool)).value) and share(np.zeros(0, bool)).high == 1.0


@pytest.mark.exact("ranking-accuracy")
def test_the_idealised_ranking_is_the_closed_form_and_does_not_overflow() -> None:
    reference = np.array([-30.0, -5.0, 5.0])
    for beta, votes in itertools.product((0.01, 0.1, 1.0, 10.0), (0.25, 0.5, 0.75, 1.0)):
        a = min(votes, 0.999)
        expected = [m + math.log(a / (1 - a)) / beta >= 0 for m in reference]
        assert idealised(reference, beta, votes).tolist() == expected
    assert idealised(reference, 0.01, 1.0).all() and not idealised(reference, 0.01, 0.0).any()
    assert idealised(reference, 10.0, np.array([1.0, 1.0, 0.0])).tolist() == [False, False, True]


def test_dpo_on_votes_reaches_the_idealised_margin() -> None:
    votes, beta, reference = 0.8, 0.5, -2.0  # one pair, labels one way in a share `votes` of the data
    margin = torch.tensor(reference, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        x = beta * (margin - reference)
        loss = votes * torch.nn.functional.softplus(-x) + (1 - votes) * torch.nn.functional.softplus(x)
        (slope,) = torch.autograd.grad(loss, margin)
        margin = (margin - 2.0 * slope).detach().requires_grad_()
    assert float(margin.detach()) == pytest.approx(reference + math.log(votes / (1 - votes)) / beta, abs=1e-6)
    assert bool(idealised(np.array([reference]), beta, votes)[0]) == (float(margin.detach()) >= 0)


def test_before_training_ranking_is_that_of_the_reference_and_halving_halves() -> None:
    start = train(3, 1.0, 0)
    assert start.steps == 0 and start.margin == pytest.approx(start.reference)
    assert dpo_loss(start.margin, start.reference, BETA) == pytest.approx(math.log(2))
    found = train(3, 1.0, 400)
    assert 0 < found.steps < 400 and (dpo_loss(found.margin, found.reference, BETA).mean()) <= 0.5 * math.log(2) + 1e-9


def row(group: int, reward: float, logp: list[float], **rewards: float) -> dict:
    return {"step": 1, "group_id": group, "reward": reward, "logp": logp, "rewards": rewards}


def test_a_group_gives_one_pair_of_its_best_and_worst() -> None:
    rows = [
        row(0, 1.0, [-1.0], right=0.0), row(0, 0.0, [-2.0], right=1.0), row(0, 1.0, [-3.0], right=0.0),
        row(1, 0.5, [-1.0], right=1.0), row(1, 0.5, [-2.0], right=1.0),
    ]  # fmt: skip
    ((best, worst),) = pairs(rows)
    assert (best["logp"], worst["logp"]) == ([-1.0], [-2.0])
    ((best, worst),) = pairs(rows, "right")
    assert (best["logp"], worst["logp"]) == ([-2.0], [-1.0])
    with pytest.raises(UserError, match="Did you mean 'right'"):
        pairs(rows, "rigth")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    out = tmp_path_factory.mktemp("measured") / "run"
    small = {"control.prompts": 8, "control.samples": 6}
    run_training("grpo", "tiny", "chain_sum", set=small, out=out, steps=2, eval_size=0, sft_steps=80)
    return RunFolder.read(out)


def by_hand(run: RunFolder, step: int, per_token: bool = False) -> list[bool]:
    groups: dict[int, list[dict]] = {}
    for r in run.rollouts(step).to_pylist(maps_as_pydicts="lossy"):
        groups.setdefault(r["group_id"], []).append(r)
    out = []
    for rows in groups.values():
        best = next(r for r in rows if r["reward"] == max(x["reward"] for x in rows))
        worst = next(r for r in rows if r["reward"] == min(x["reward"] for x in rows))
        size = (len(best["logp"]), len(worst["logp"])) if per_token else (1, 1)
        if best["reward"] > worst["reward"]:
            out.append(sum(best["logp"]) / size[0] >= sum(worst["logp"]) / size[1])
    return out


def test_a_run_is_measured_by_the_log_probabilities_it_was_sampled_with(run) -> None:
    for step, asked in ((2, RankingAccuracy()), (1, RankingAccuracy(step=1))):
        expected = by_hand(run, step)
        found = asked.of(run)
        assert found.n == len(expected) and found.value == pytest.approx(np.mean(expected)) and not found.details
    per_token = by_hand(run, 2, per_token=True)
    assert RankingAccuracy(by="logp_per_token").of(run).value == pytest.approx(np.mean(per_token))
    always = RankingAccuracy(by="reward", better="correct").of(run)
    assert always.value == 1.0, "the verifier's reward ranks what it judged"


def test_the_trained_weights_score_the_pairs_of_the_first_step(run) -> None:
    found = RankingAccuracy(policy="final", agreement=1.0).of(run)
    assert found.details["reference"] == pytest.approx(np.mean(by_hand(run, 1)))
    assert found.details["gap"] == pytest.approx(found.details["idealised"] - found.value)
    assert found.n == len(by_hand(run, 1))


def test_untrained_weights_give_the_log_probabilities_that_were_stored(tmp_path) -> None:
    from anypo.measures.rankings import final_logp

    small = {"control.prompts": 4, "control.samples": 3, "update.optimiser.lr": 1e-30}
    run_training("grpo", "tiny", "chain_sum", set=small, out=tmp_path / "run", steps=1, eval_size=0, sft_steps=20)
    rows = RunFolder.read(tmp_path / "run").rollouts(1).to_pylist(maps_as_pydicts="lossy")
    stored = [
        sum(row["logp"]) for row in rows
    ]  # without the padding token, which is never drawn: its mass is the tolerance
    assert final_logp(tmp_path / "run", rows) == pytest.approx(stored, abs=2e-2)


def test_what_cannot_be_measured_is_said(run) -> None:
    with pytest.raises(UserError, match="what the reward itself ordered"):
        RankingAccuracy(by="reward").of(run)
    with pytest.raises(UserError, match="no rollouts of step 9"):
        RankingAccuracy(step=9).of(run)
