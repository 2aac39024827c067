"""Gradients of the baselines: against losses written again without the library, and against exact expectations."""

from __future__ import annotations

import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.errors import UserError
from anypo.exact.bench import Setting
from anypo.exact.check import case, direct_gradient, expectation, library_gradient, written_gradient
from anypo.systems import find, methods
from anypo.update import GradientUpdate

SMALL = Setting(prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular", reward="graded")


def build(name: str, **changes) -> Algorithm:
    return find(name).algorithm().set(changes)


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


# -- written again ------------------------------------------------------------------------------------------------------------


def centred(c, ddof=None):
    advantage = c.reward - c.group_mean(c.reward)
    return advantage if ddof is None else advantage / (c.group_std(c.reward, ddof) + 1e-6)


def clipped(c, advantage, low, high):
    ratio = (c.logp - c.old).exp()
    return torch.minimum(ratio * advantage[:, None], ratio.clamp(1 - low, 1 + high) * advantage[:, None])


def reinforce(c):
    return -((c.logp * c.mask).sum(1) * c.reward).mean()


def grpo(c):
    return -((clipped(c, centred(c, 1), 0.2, 0.2) * c.mask).sum(1) / c.length).mean()


def dr_grpo(c):
    return -(clipped(c, centred(c), 0.2, 0.2) * c.mask).sum() / (len(c.reward) * c.setting.horizon)


def dapo_loss(c):
    return -(clipped(c, centred(c, 1), 0.2, 0.28) * c.mask).sum() / c.mask.sum()


def gspo(c):
    log_ratio = ((c.logp - c.old) * c.mask).sum(1) / c.length
    ratio, advantage = log_ratio.exp(), centred(c, 1)
    wide = (4096 / c.length).sqrt()
    inside = torch.minimum(torch.maximum(ratio, 1 - 3e-4 * wide), 1 + 4e-4 * wide)
    return -torch.minimum(ratio * advantage, inside * advantage).mean()


def cispo(c):
    weight = (c.logp - c.old).exp().clamp(max=1.2).detach()
    return -(weight * centred(c, 1)[:, None] * c.logp * c.mask).sum() / c.mask.sum()


def rloo(c):
    reward = c.reward - 0.05 * ((c.old - c.ref) * c.mask).sum(1)
    others = torch.stack(
        [reward[(c.group == g) & (torch.arange(len(reward)) != i)].mean() for i, g in enumerate(c.group.tolist())]
    )
    return -((c.logp * c.mask).sum(1) * (reward - others)).mean()


WRITTEN = {
    "reinforce": ({}, reinforce),
    "grpo": ({}, grpo),
    "dr-grpo": ({"objective.aggregate.length": 4}, dr_grpo),
    "dapo": ({"filter.survival": [], "credit.shaping": []}, dapo_loss),
    "gspo": ({}, gspo),
    "cispo": ({}, cispo),
    "rloo": ({}, rloo),
}


@pytest.mark.exact(*WRITTEN)
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("old", ["sampler", "trainer"])
def test_gradient_is_that_of_the_loss_written_again(name, old):
    changes, loss = WRITTEN[name]
    given = case(Setting(staleness=16, reward="graded", group=4, prompts=3, old=old))
    found = library_gradient(build(name, **changes), given)
    assert float(found.norm()) > 1e-4
    assert distance(found, written_gradient(loss, given)) < 1e-9


def test_a_wrong_loss_is_told_apart():
    given = case()
    found = library_gradient(build("grpo"), given)
    assert distance(found, written_gradient(dapo_loss, given)) > 0.01


PLAIN = [
    name
    for name, entry in methods().items()
    if entry.algorithm().generate.part == "independent"
    and isinstance(entry.algorithm().update, GradientUpdate)
    and name
    not in ("fapo", "funrl", "urpa")  # their credit reads what a signal of the filter writes, which is not run here
]


@pytest.mark.parametrize("name", PLAIN)
def test_coefficients_by_rows_are_the_gradient_of_the_loss(name):
    """Two ways to the same gradient for every system that samples plainly: through the machine, and straight through the policy."""
    algorithm = build(name)
    try:
        algorithm.check()
    except UserError as needs:
        pytest.skip(str(needs))  # it waits for something of the user's, such as further models
    given = case(Setting(staleness=4, reward="graded", group=4, prompts=3, old="sampler"))
    found, expected = library_gradient(algorithm, given), direct_gradient(algorithm, given)
    assert float((found - expected).norm()) <= 1e-9 * max(1e-3, float(expected.norm()))


# -- exact expectations -----------------------------------------------------------------------------------------------------------


@pytest.mark.exact("reinforce", "rloo")
@pytest.mark.parametrize("name, changes", [("reinforce", {}), ("rloo", {"credit.shaping": []})])
def test_unbiased_on_policy(name, changes):
    mean, true = expectation(build(name, **changes), SMALL)
    assert distance(mean, true) < 1e-12


@pytest.mark.exact("dr-grpo")
def test_the_group_mean_shrinks_but_does_not_turn():
    """With its own reward in the baseline the expectation is (n - 1) / n of the gradient (Dr. GRPO, n = 2, over the length 2)."""
    mean, true = expectation(build("dr-grpo", **{"objective.aggregate.length": 2}), SMALL)
    assert distance(mean, 0.25 * true) < 1e-12


def test_dividing_by_length_or_deviation_turns_it():
    for changes in ({"credit.scale": "none"}, {"objective.aggregate": "constant_length"}):
        mean, true = expectation(build("grpo", **changes), SMALL)
        assert float(mean @ true / (mean.norm() * true.norm())) < 1 - 1e-4


def test_stale_batches_need_the_whole_sequence_ratio():
    stale = Setting(prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular", staleness=32)
    plain = {"credit.shaping": [], "objective.aggregate": "sequence_mean"}
    whole = build("rloo", **plain, **{"objective.ratio": {"part": "sequence", "normalise": False}})
    mean, true = expectation(whole, stale)
    assert distance(mean, true) < 1e-12
    for name in ("rloo", "grpo"):
        mean, true = expectation(build(name, **({"credit.shaping": []} if name == "rloo" else {})), stale)
        assert distance(mean, true) > 0.05
