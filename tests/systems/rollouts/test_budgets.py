"""The exact properties of `anypo.systems.rollouts.budgets`, as the sources state them."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import pytest
import torch
from making_rows import make
from making_systems import assign
from stepping import assert_descended, log_probabilities, steps

from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=3, prompts=4, batch=4, group=5)


def slope(ratio: float, old_ratio: float, advantage: float, gap: float) -> float:
    """d (surrogate - 0.0001 k3) / d log pi of one token: clip-higher on the ratio to the step's start, the trainer's ratio to the
    sampler at most 2 as a weight, k3 = e^gap - 1 - gap with gap = log pi_ref - log pi."""
    inside = ratio <= 1.28 if advantage > 0 else ratio >= 0.8
    return min(old_ratio, 2.0) * (ratio * advantage if inside else 0.0) - 1e-4 * (1 - math.exp(gap))


@pytest.mark.exact("brorl")
@pytest.mark.parametrize("drift", [0.0, 0.02, 0.8])
def test_brorls_gradient_is_the_published_one(drift: float) -> None:
    """Reward minus group mean over the deviation of the whole batch; mean over tokens. With drift the policy has moved since the step
    began, the trainer disagrees with the sampler, and the reference is another policy."""
    batch = make([[3, 1, 4], [2, 2], [5]], [[1.0, 0.0, 0.0], [0.0, 1.0], [1.0]], drift=drift, seed=5)
    method = find("brorl").algorithm()
    credited, context = assign(method, batch), Context(0, 10, 0, Memory(method))
    logp = batch["logp"].clone().requires_grad_()
    (found,) = torch.autograd.grad(method.objective.loss(credited.with_rows(logp=logp), context), logp)
    centred = [2 / 3, -1 / 3, -1 / 3, -0.5, 0.5, 0.0]
    advantage = [a / (statistics.stdev(centred) + 1e-8) for a in centred]
    take = lambda name: batch[name].tolist()
    expected = [
        -slope(math.exp(now - old), math.exp(old - said), advantage[i], ref - now) / len(batch)
        for i, now, old, said, ref in zip(
            batch.sequence.tolist(), take("logp"), take("logp_old"), take("logp_behaviour"), take("logp_ref")
        )
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if drift > 0.5:
        ratios = (batch["logp"] - batch["logp_old"]).exp(), (batch["logp_old"] - batch["logp_behaviour"]).exp()
        assert float(ratios[0].max()) > 1.28 and float(ratios[0].min()) < 0.8 and float(ratios[1].max()) > 2


@pytest.mark.exact("brorl")
def test_a_run_of_brorl_is_descent_on_the_published_loss_with_a_reference_that_is_renewed() -> None:
    """After weight changes, too: the KL pulls towards the policy as it was when the reference was taken last. Prompts without contrast
    are left out; a step that has none with it teaches nothing, and puts the next reference off."""
    changes = {
        "control.samples": 5,
        "filter.rounds": 1,
        "objective.regularise.0.coefficient": 0.3,
        "update.reference.every": 2,
    }
    reference: Any = None
    left_out = compared = taken = 0
    for number, (before, run) in enumerate(steps("brorl", changes, BED, 5)):
        reference = reference or copy.deepcopy(before)
        groups = run.groups
        assert all(len({t.reward for t in g.trajectories}) > 1 for g in groups)
        left_out += BED.batch - len(groups)
        if not groups:
            assert torch.equal(before.weight, run.world.policy.weight)
            continue
        compared += 1
        centred = [t.reward - statistics.mean(m.reward for m in g.trajectories) for g in groups for t in g.trajectories]
        spread = statistics.stdev(centred)

        terms, count = [], 0
        for value, t in zip(centred, (t for g in groups for t in g.trajectories)):
            now, fixed = log_probabilities(before, t), log_probabilities(reference, t).detach()
            gap, ratio = fixed - now, (now - now.detach()).exp()
            terms.append((0.3 * (gap.exp() - 1 - gap) - value / (spread + 1e-8) * ratio).sum())
            count += len(now)
        assert_descended(before, run.world.policy, torch.stack(terms).sum() / count)
        if (number + 1) // 2 > taken:
            taken, reference = (number + 1) // 2, copy.deepcopy(run.world.policy)
    assert left_out > 0 and compared == 4 and taken == 2


def test_brorl_has_512_rollouts_and_one_alone_teaches_nothing() -> None:
    method = find("brorl").algorithm()
    assert (method.control.samples, method.update.reference.every) == (512, 100)  # type: ignore[attr-defined]
    alone = assign(method, make([[3]], [[1.0]], drift=0.0))
    assert not alone["advantage"].any()
    context = Context(0, 10, 0, Memory(method))
    nothing = alone.select(torch.tensor([False]))
    assert float(method.objective.loss(alone, context)) == float(method.objective.loss(nothing, context)) == 0.0
