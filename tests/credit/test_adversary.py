"""The adversary over bins of difficulty, against its formulas, copies of an easy bin, and prompts that are met once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import make
from scipy.optimize import minimize

from anypo.context import Context, Memory
from anypo.credit.adversary import DifficultyAdversary, shares
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.outlook import Outlook
from anypo.systems import find


def batch(*rewards: list[float], prompts: list[int] | None = None):
    """One group of one-decision rollouts for every list of rewards; group g asks prompt g unless `prompts` say otherwise."""
    made = make([[1] * len(group) for group in rewards], [list(group) for group in rewards])
    ids = torch.tensor([(prompts or list(range(len(rewards))))[g] for g in made.group.tolist()])
    return made.with_sequences(prompt=ids)


def weigh(part: DifficultyAdversary, context: Context, *rewards: list[float], prompts: list[int] | None = None):
    """Weight of every group, float list."""
    one = batch(*rewards, prompts=prompts)
    values = one.sequences["reward"].unsqueeze(1)
    found = part.factor(values, one, context)
    return [float(found[one.group == g][0]) for g in range(len(rewards))]


def begin(**fields) -> tuple[DifficultyAdversary, Context]:
    part = DifficultyAdversary(**fields)
    return part, Context(0, 10, 0, Memory(part))


@pytest.mark.exact("gdro-rl")
def test_shares_are_the_adversarys_best_response() -> None:
    scores = {0: 0.9, 3: 0.4, 7: 0.1}
    found = shares(scores, 0.65, 0.01)
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) >= 0.01 / 3
    s = np.array(list(scores.values()))
    value = lambda q: -(q @ s - (q * np.log(q)).sum() / 0.65)
    best = minimize(
        value, np.full(3, 1 / 3), bounds=[(1e-9, 1)] * 3, constraints={"type": "eq", "fun": lambda q: q.sum() - 1}
    )
    np.testing.assert_allclose(list(shares(scores, 0.65, 0.0).values()), best.x, atol=1e-4)
    top = math.log(sum(math.exp(0.65 * v) for v in s)) / 0.65
    assert -best.fun == pytest.approx(top, abs=1e-6) and s.max() <= top <= s.max() + math.log(3) / 0.65


@pytest.mark.exact("gdro-rl")
def test_weights_by_hand() -> None:
    part, context = begin(edges=(0.5,), eta=2.0, explore=0.1, pace=0.5)
    assert weigh(part, context, [1.0, 1.0], [0.0, 0.0]) == [1.0, 1.0]  # both unseen: one bin
    memory = context.memory[part]
    assert memory["scores"] == {0: 0.5} and memory["visits"] == {0: [1], 1: [0]}
    # prompt 0 is easy now (bin 1, no score yet), prompt 1 hard (score 1/2)
    q = {0: 0.9 * math.e / (math.e + 1) + 0.05, 1: 0.9 / (math.e + 1) + 0.05}
    assert weigh(part, context, [1.0, 0.0, 1.0], [0.0], prompts=[0, 1]) == pytest.approx(
        [q[1] / ((3 * q[1] + q[0]) / 4), q[0] / ((3 * q[1] + q[0]) / 4)]
    )
    assert memory["scores"] == {0: pytest.approx(0.5 * 0.5 + 0.5 * 1.0), 1: pytest.approx(1 / 3)}


@pytest.mark.exact("gdro-rl")
def test_copies_of_an_easy_bin_change_no_score() -> None:
    single, double = begin(edges=(0.5,)), begin(edges=(0.5,))
    easy, hard = [1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]
    for _ in range(6):
        weigh(*single, easy, hard, prompts=[0, 9])
        weigh(*double, easy, easy, easy, hard, prompts=[0, 1, 2, 9])
    one, two = (context.memory[part] for part, context in (single, double))
    assert one["bins"][9] == two["bins"][9] == 0 and one["bins"][0] == two["bins"][2] == 1
    assert one["scores"][1] == pytest.approx(two["scores"][1]) and two["scores"][0] > one["scores"][1]


def test_a_bin_is_left_when_its_edge_is_passed_by_enough() -> None:
    part, _ = begin(edges=(0.4, 0.75), inertia=0.03)
    memory = {
        "visits": {1: [1, 0, 0, 1, 0], 2: [1] * 3 + [0] * 4, 3: [1, 0], 4: [1] * 4, 5: []},
        "bins": {1: 0, 2: 0, 3: 2, 4: 0},
    }
    # 2/5 lies on the edge: not left from below; 3/7 passes it by 0.029: nor there; 1/2 leaves the top bin; 1 leaves the lowest
    assert [part.bin(prompt, memory) for prompt in (1, 2, 3, 4, 5, 6)] == [0, 0, 1, 2, 0, 0]


def test_the_largest_weight_is_capped() -> None:
    part, context = begin(edges=(0.5,), eta=50.0, explore=0.0, pace=1.0, most=3.0)
    many = [[1.0]] * 11
    prompts = list(range(12))
    for _ in range(2):
        weigh(part, context, *many, [0.0], prompts=prompts)
    found = weigh(part, context, *many, [0.0], prompts=prompts)
    assert found[-1] == 3.0 and max(found[:-1]) < 1e-6


def test_edges_are_refused_in_a_sentence() -> None:
    for edges in ([], [0.5, 0.2], [0.0, 0.5], [0.5, 1.0]):
        with pytest.raises(UserError, match="edges are rising numbers between 0 and 1"):
            find("gdro-rl").algorithm().set({"credit.group_weight.edges": edges})


def test_prompts_that_are_met_once_have_no_history_and_the_run_says_so() -> None:
    few = Outlook(20, 10_000)
    said = lambda method: " ".join(s for s in method.sleepers(few) if "adversary" in s)
    assert said(find("gdro-rl").algorithm()) == ""
    assert "hardly a prompt is met twice; set control.passes=5" in said(
        find("gdro-rl").algorithm().set({"control.passes": 0})
    )


def test_an_empty_batch_has_no_weights() -> None:
    part, context = begin()
    assert part.factor(torch.zeros(0, 1), Batch.pack([]), context).shape == (0,)
