"""The testbed runs the real loop, is deterministic, pairs runs by seed, and its lag is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from anypo.claims.beds.exact import Testbed, train
from anypo.exact.graph import tree
from anypo.exact.task import ExactTask, patterns


def test_grpo_learns_and_is_deterministic():
    bed = Testbed(lr=0.1)
    one, again = train("grpo", bed, 30, 3), train("grpo", bed, 30, 3)
    assert np.array_equal(one.value, again.value) and len(one.value) == 31 and one.values.shape == (31, 4)
    assert one.final > one.value[0] + 0.15
    assert one.entropy[-1] < one.entropy[0] and one.kl[0] == 0.0 and one.kl[-1] > 0.05
    other = train("reinforce", bed, 2, 3)
    assert other.value[0] == one.value[0]  # paired by seed
    assert train("grpo", bed, 2, 4).value[0] != one.value[0]


def test_curves_summaries():
    curves = train("grpo", Testbed(lr=0.1), 20, 0)
    assert curves.steps_to(-1.0) == 0 and curves.steps_to(2.0) == float("inf")
    assert curves.area == pytest.approx(curves.value.mean()) and not curves.collapsed()
    assert len(curves.metric("reward/mean")) == 20 and len(curves.metric("nothing")) == 0


def test_lagged_runs_see_old_policies():
    seen = []
    bed = Testbed(lag=3, old="sampler", lr=0.1, batch=2, group=16)  # large groups: every step has something to learn
    curves = train("grpo", bed, 8, 0, watch=lambda trainer: seen.append(trainer.batch["version"].unique().tolist()))
    assert seen == [[0], [0], [0], [0], [1], [2], [3], [4]]
    assert (
        np.abs(curves.metric("objective/ratio_max") - 1).max() > 0.01
        or curves.metric("objective/clip_fraction").max() > 0
    )


def test_settings_reach_the_algorithm():
    adapted = Testbed(group=5, batch=3, horizon=6, lr=0.2, set={"objective.trust.high": 0.5}).adapt("grpo")
    assert adapted.control.samples == 5 and adapted.control.prompts == 3 and adapted.generate.max_new == 6
    assert adapted.update.optimiser.lr == 0.2 and adapted.objective.trust.high == 0.5
    assert Testbed().adapt("ppo").credit.optimiser.lr == 0.05


def test_a_task_of_ones_own():
    def first_letter(graph):
        base = patterns(graph, 1)
        reward = 0 * base.reward
        reward[0, 0, 2] = 1.0
        return ExactTask(graph, reward, ("b",))

    curves = train("grpo", Testbed(task=first_letter, horizon=2, lr=0.2), 40, 0)
    assert curves.values.shape == (41, 1) and curves.final > 0.9
    assert first_letter(tree(4, 2)).score(0, "b") == 1.0
