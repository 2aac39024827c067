"""Objectives of the methods that choose prompts, against losses written out by hand, also after the weights changed."""

from __future__ import annotations

import pytest
import torch
from making_systems import ASYNCHRONOUS, assert_same_gradient, rows, slope

from anypo.objective.trusts.clips import RecentredClip
from anypo.systems import find


def standardised(case):
    spread = torch.stack([case.reward[case.group == g].std() for g in case.group.tolist()])
    return ((case.reward - case.group_mean(case.reward)) / (spread + 1e-6))[:, None]


@pytest.mark.exact("dps")
def test_dps_has_the_loss_of_its_scripts() -> None:
    def loss(case):
        ratio, advantage = (case.logp - case.old).exp(), standardised(case)
        kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        kept = torch.where(advantage < 0, torch.maximum(kept, 10.0 * advantage), kept)
        return -((kept + 0.001 * case.entropy) * case.mask).sum() / case.mask.sum()

    assert_same_gradient("dps", loss)


@pytest.mark.exact("vade")
def test_vade_leaves_grpo_as_it_is() -> None:
    vade, grpo = find("vade").algorithm(), find("grpo").algorithm()
    assert vade.replace(control=grpo.control, name="grpo") == grpo


@pytest.mark.exact("dots-rr")
def test_replay_is_clipped_around_the_policy_before_the_step() -> None:
    """r = pi / mu between c (1 - e) and c (1 + e), c = pi_before / mu."""

    def loss(case):
        ratio, centre = (case.logp - case.behaviour).exp(), (case.old - case.behaviour).exp()
        bounded = torch.maximum(torch.minimum(ratio, centre * 1.2), centre * 0.8)
        advantage = standardised(case)
        return -(torch.minimum(ratio * advantage, bounded * advantage) * case.mask).sum() / case.mask.sum()

    assert_same_gradient("dots-rr", loss, ASYNCHRONOUS)
    objective = find("dots-rr").algorithm().objective
    # stored rows whose ratio is 3 by now: at the step's start they are inside whatever their age, and clipped 0.2 of c away from it
    stale = rows([0.0, 0.0, 0.3], [0.0, -0.3, 0.0], [1.0, 1.0, -1.0]).with_rows(
        logp_behaviour=torch.full((3,), -1.1).double()
    )
    found = slope(objective, stale)
    assert found[0] != 0 and found[1] == 0 and found[2] != 0
    assert isinstance(objective.trust, RecentredClip)
