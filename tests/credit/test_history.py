"""What a prompt's past changes: length records, tool counts, beliefs. State is checkpointed and keyed by prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from credit_making import advantages, batch_of, context_for, rollout

from anypo.context import Memory
from anypo.credit.centres.trackers import (
    BetaTracker,
    ConstantForgetting,
    DriftForgetting,
    KLForgetting,
    MeasureDrift,
    StartBeliefs,
)
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation, Whiten
from anypo.credit.shaping.history import HistoryLength, ToolCost, length_bonus, tool_factor
from anypo.data.batch import Batch
from anypo.data.prompts import belief, prompt_store
from anypo.data.records import Group
from anypo.replay import LastResponse

GRPO = Pipeline(scale=StandardDeviation())


def double(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- HAPO -------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("hapo-history")
def test_length_bonus_table() -> None:
    record = double([100.0] * 9)
    size = double([0, 50, 100, 150, 200, 50, 100, 150, 200])
    right = torch.tensor([True] * 5 + [False] * 4)
    wanted = [1, 0.7071, 0, -0.7, -0.7, 0, 0, -0.7071, -1]
    found = length_bonus(size, record, right, -0.7, "cosine", 0.0)
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    assert float((1 + found[:5]).min()) == pytest.approx(0.3) and float(found[5:].max()) == 0.0
    linear = length_bonus(size, record, right, -0.7, "linear", 0.2)
    assert linear.tolist() == pytest.approx([1, 0.5, 0, -0.3, -0.7, 0, 0, -0.3, -0.8])


def test_history_length_starts_as_grpo_and_only_shortens() -> None:
    credit = GRPO.replace(shaping=(HistoryLength(),))
    memory = Memory(credit)
    context = context_for(credit, memory=memory)
    rewards, lengths = [[1.0, 0, 1, 0]], [[30, 10, 40, 5]]
    assert advantages(credit, batch_of(rewards, lengths), context) == advantages(GRPO, batch_of(rewards, lengths))
    store = prompt_store(context).table("history/length")
    records = [store[0]]
    for right_length in (60, 20, 50, 12):
        shaped = credit.shaping[0].shape(batch_of([[1.0, 0]], [[right_length, 3]]), context)
        expected = 1 + max(math.cos(min(math.pi / 2 * right_length / records[-1], math.pi)), -0.7)
        assert float(shaped.sequences["reward"][0]) == pytest.approx(expected)  # judged by the record before the step
        records.append(store[0])
    assert records == [30, 30, 20, 20, 12]
    credit.shaping[0].shape(batch_of([[0.0, 0]], [[2, 3]]), context)
    assert store[0] == 12  # nothing right, nothing learned


def test_history_length_mean_mode_counts_every_right_answer() -> None:
    part = HistoryLength(mode="mean")
    context = context_for(part)
    part.shape(batch_of([[1.0, 1, 0]], [[10, 20, 5]]), context)
    part.shape(batch_of([[1.0, 0, 0]], [[60, 1, 1]]), context)
    assert prompt_store(context).table("history/length")[0] == pytest.approx(30.0)


def test_a_right_answer_of_the_full_length_sets_no_record() -> None:
    part = HistoryLength()
    context = context_for(part)
    cut = batch_of([[1.0, 1, 0]], [[16, 16, 9]], finish=[["length", "stop", "stop"]])
    part.shape(cut.select(torch.tensor([0, 2])), context)
    assert prompt_store(context).table("history/length") == {}
    shaped = part.shape(batch_of([[1.0, 0]], [[12, 16]]), context)
    assert shaped.sequences["reward"].tolist() == [1.0, 0.0]  # no record, no length reward
    assert prompt_store(context).table("history/length") == {0: 12.0}


# -- OTC --------------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("otc-po")
def test_tool_factor_table() -> None:
    two = tool_factor(double(list(range(8))), double([2.0] * 8), 1.0)
    assert two.tolist() == pytest.approx([0, 0.866, 1, 0.951, 0.866, 0.782, 0.707, 0.643], abs=5e-4)
    none = tool_factor(double(list(range(5))), double([0.0] * 5), 1.0)
    assert none.tolist() == pytest.approx([1, 0.5, 0.309, 0.223, 0.174], abs=5e-4)
    for best in (1.0, 3.0, 6.0):
        calls = double(list(range(20)))
        assert int(tool_factor(calls, torch.full_like(calls, best), 1.0).argmax()) == best


def test_tool_cost_never_pays_a_wrong_answer_and_remembers_the_cheapest() -> None:
    part = ToolCost()
    context = context_for(part)

    def shaped(rewards: list[float], calls: list[float]) -> list[float]:
        batch = batch_of([rewards], components={"tool_calls": [calls]})
        return part.shape(batch, context).sequences["reward"].tolist()

    assert shaped([0.0, 0.0], [0, 3]) == [0.0, 0.0]
    assert shaped([1.0, 1.0, 0.0], [2, 4, 0]) == pytest.approx([1.0, 0.866, 0.0], abs=5e-4)
    assert shaped([1.0, 0.0], [4, 0]) == pytest.approx([0.866, 0.0], abs=5e-4)  # still compared with 2
    assert shaped([1.0, 1.0], [1, 2]) == pytest.approx([1.0, math.sin(2 / 3 * math.pi)], abs=1e-6)
    assert prompt_store(context).table("history/tool_calls") == {0: 1.0}


@pytest.mark.exact("otc-po")
@pytest.mark.parametrize("form", ["group", "absolute"])
@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_calls_change_what_right_answers_earn_and_nothing_else(form: str, wrong: float) -> None:
    """With rewards of 1 and -1 too: a wrong answer with many calls was paid -0.6, more than one with few."""
    part = ToolCost(form=form, smoothing=4.0)
    calls, earned = [2.0, 5.0, 9.0, 0.0, 2.0], [1.0, 1.0, wrong, wrong, wrong]
    batch = batch_of([earned], components={"tool_calls": [calls]})
    angle = [2 * 2 * m / (m + 2) / 4 if form == "group" else 0.5 - m / (2 * m + 4) for m in calls[:2]]
    wanted = [math.sin(math.pi * share) for share in angle] + [wrong] * 3
    assert part.shape(batch, context_for(part)).sequences["reward"].tolist() == pytest.approx(wanted, abs=1e-12)
    nobody = batch_of([[wrong]], components={"tool_calls": [[3.0]]})
    assert part.shape(nobody, context_for(part)).sequences["reward"].tolist() == [wrong]
    empty = batch.select(torch.zeros(5, dtype=torch.bool))
    assert len(part.shape(empty, context_for(part)).sequences["reward"]) == 0


def test_tool_cost_scale_cancels_and_turns_count_as_calls() -> None:
    rewards, calls = [[1.0, 1, 0, 1]], {"tool_calls": [[1.0, 2, 0, 3]]}
    one, three = (GRPO.replace(shaping=(ToolCost(alpha=a),)) for a in (1.0, 3.0))
    first = advantages(one, batch_of(rewards, components=calls))
    assert advantages(three, batch_of(rewards, components=calls)) == pytest.approx(first, abs=1e-5)
    turns = [[np.array([0, 1]), np.array([0, 1, 2]), np.array([0]), np.array([0, 1, 2, 3])]]
    by_turns = batch_of(rewards, [[2, 3, 1, 4]], turn=turns)
    assert advantages(one, by_turns) == pytest.approx(first, abs=1e-12)
    absolute = ToolCost(form="absolute").shape(batch_of(rewards, components=calls), context_for(one))
    wanted = [math.cos(m * math.pi / (2 * m + 1)) * r for m, r in zip([1, 2, 0, 3], rewards[0])]
    assert absolute.sequences["reward"].tolist() == pytest.approx(wanted)


# -- SPO, MSSR --------------------------------------------------------------------------------------------------------------


def visit(part: BetaTracker, rewards: list[float], context, prompt: int = 0) -> float:
    batch = batch_of([rewards], prompts=[prompt])
    return float(part.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)[0, 0])


@pytest.mark.exact("spo-single-stream", "mssr")
def test_tracker_is_an_exponential_average_and_the_baseline_precedes_the_visit() -> None:
    rho = 0.9
    part = BetaTracker(forgetting=ConstantForgetting(rho=rho))
    context = context_for(part)
    value, evidence = 0.5, 1.0
    rng = np.random.default_rng(0)
    for reward in rng.integers(0, 2, 300).astype(float).tolist():
        assert visit(part, [reward], context) == pytest.approx(value)
        value += (reward - value) / (rho * evidence + 1)
        evidence = rho * evidence + 1
    table = prompt_store(context).tables
    assert table["beta/a"][0] + table["beta/b"][0] == pytest.approx(1 / (1 - rho), rel=1e-9)


def test_tracker_starts_from_a_first_group_as_from_an_offline_estimate() -> None:
    part = BetaTracker(forgetting=ConstantForgetting())
    context = context_for(part)
    batch = batch_of([[1.0, 0, 0, 0, 0, 0, 1, 1]])
    baseline = part.baseline(batch.sequences["reward"].unsqueeze(1), batch, context)
    assert baseline[:2, 0].tolist() == pytest.approx([2 / 7, 3 / 7])  # leave one out on the first visit
    a, b = (prompt_store(context).table(f"beta/{x}")[0] for x in "ab")
    assert (a, b) == pytest.approx((8 * 3.5 / 9, 8 * 5.5 / 9))
    assert a + b == pytest.approx(1 / (1 - 0.875))
    assert belief(prompt_store(context), torch.tensor([0, 5])).tolist() == pytest.approx([3.5 / 9, 0.5])


def test_first_visits_start_the_belief_and_are_not_trained_on() -> None:
    credit = Pipeline(
        shaping=(StartBeliefs(),), centre=BetaTracker(forgetting=ConstantForgetting(rho=1.0)), normalise=Whiten()
    )
    context = context_for(credit)
    batch = batch_of([[1.0, 0, 0, 0, 0, 0, 1, 1], [1.0], [1.0]], prompts=[7, 7, 8])
    out = credit.assign(batch.select(batch.group != 1), context)  # eight rollouts of 7, and one of 8
    assert out.sequences["prompt"].tolist() == [8]
    a, b = (prompt_store(context).table(f"beta/{x}") for x in "ab")
    assert (a[7], b[7]) == pytest.approx((8 * 3.5 / 9, 8 * 5.5 / 9)) and (a[8], b[8]) == (1.5, 0.5)
    again = credit.assign(batch.select(batch.group != 1), context)
    assert again.n_sequences == 9  # a belief that stands is not begun again: a group is judged by it
    alone = credit.assign(batch.select(batch.group == 1), context)
    assert alone.n_sequences == 1
    assert a[7] > 8 * 3.5 / 9


def test_tracker_does_not_depend_on_packing_and_survives_a_checkpoint() -> None:
    credit = Pipeline(centre=BetaTracker(forgetting=ConstantForgetting()), normalise=Whiten())
    batch = batch_of([[1.0], [0.0], [1.0], [0.5]], prompts=[4, 4, 7, 9])
    order = torch.tensor([2, 0, 3, 1])
    contexts = [context_for(credit), context_for(credit)]
    for _ in range(3):
        a = credit.assign(batch, contexts[0]).sequences["advantage"]
        b = credit.assign(batch.select(order), contexts[1]).sequences["advantage"]
        torch.testing.assert_close(a[order], b)
    restored = Memory(credit)
    restored.load_state_dict(contexts[0].memory.state_dict())
    again = credit.assign(batch, context_for(credit, memory=restored)).sequences["advantage"]
    torch.testing.assert_close(again, credit.assign(batch, contexts[0]).sequences["advantage"])


@pytest.mark.exact("spo-single-stream")
def test_drift_forgetting_table() -> None:
    part = DriftForgetting()
    context = context_for(part)
    prompt_store(context).write("drift", [1, 2, 3], [0.0, 0.006, 10.0])
    found = part.retention([0, 1, 2, 3], batch_of([]), context).tolist()
    assert found == pytest.approx([0.96, 0.96, max(0.875, min(0.96, 2**-0.1)), 0.875])
    unbounded = DriftForgetting(low=1e-9, high=1.0)
    for drift in (0.01, 0.05):
        prompt_store(context).write("drift", [4, 5], [drift, 2 * drift])
        one, two = unbounded.retention([4, 5], batch_of([]), context).tolist()
        assert two == pytest.approx(one**2)


def test_stored_responses_measure_drift_and_leave_the_batch() -> None:
    replay, part = LastResponse(), MeasureDrift()
    keep, context = Memory(replay), context_for(part)
    at = context_for(replay, memory=keep)
    first = Group(3, (rollout(1.0, 4, prompt=3),))
    assert replay.select([first], 0, at) == [first]
    restored = Memory(replay)
    restored.load_state_dict(keep.state_dict())
    groups = replay.select([Group(3, (rollout(0.0, 2, prompt=3),))], 1, context_for(replay, memory=restored))
    assert [len(g.trajectories[0]) for g in groups] == [2, 4]
    batch = Batch.pack(groups, torch.float64)
    moved = torch.tensor([9.0, 9, 0.1, -0.1, 0.3, 0.1], dtype=torch.float64)
    out = part.shape(batch.with_rows(logp_old=batch["logp_behaviour"] + moved), context)
    assert out.n_sequences == 1 and len(out) == 2
    assert prompt_store(context).table("drift")[3] == pytest.approx(0.15)


def test_kl_forgetting_is_bounded_and_monotone() -> None:
    part = KLForgetting(window=1)
    context = context_for(part)
    found = []
    for gap in (0.0, 0.05, 0.1, 0.5, 5.0):
        batch = batch_of([[1.0]], [[3]])
        batch = batch.with_rows(logp_old=batch["logp_behaviour"], logp_ref=batch["logp_behaviour"] + gap)
        found.append(float(part.retention([0], batch, context)[0]))
    assert found == sorted(found, reverse=True) and found[0] == 0.96 and found[-1] == 0.875
    windowed = KLForgetting(window=3)
    context = context_for(windowed)
    for gap in (1.0, 0.0, 0.0, 0.0):
        batch = batch_of([[1.0]])
        batch = batch.with_rows(logp_old=batch["logp_behaviour"], logp_ref=batch["logp_behaviour"] + gap)
        last = float(windowed.retention([0], batch, context)[0])
    assert last == 0.96 and len(context.memory[windowed]["kl"]) == 3
