"""The exact properties of `anypo.systems.preference.pairs`, as the sources state them."""

from __future__ import annotations

import pytest
import torch
from making_rows import loss_and_gradient, make
from making_systems import SMALL, assert_same_gradient, method

from anypo.exact.bench import Setting
from anypo.exact.check import Case, expectation
from anypo.objective import Pairwise


def pairwise_loss(c: Case, joint: bool, m: int) -> torch.Tensor:
    q = ((c.logp - c.old) * c.mask).sum(1)
    reward = c.reward - 0.05 * ((c.old - c.ref) * c.mask).sum(1)
    total = 0.0
    for g in range(c.n_groups):
        members = (c.group == g).nonzero().flatten().tolist()
        for i in members:
            for j in members:
                if i == j:
                    continue
                push = (q[i] + q[j]).detach().exp().clamp(0.8, 1.2) * (reward[i] - reward[j])
                drift = (q[i] - q[j]) / 2 if joint else q[i]
                total = total + torch.minimum(push * drift, push * drift.clamp(-0.2, 0.2)) / (m * (m - 1))
    return -total / c.n_groups


@pytest.mark.exact("p3o-pairwise")
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("m", [2, 4])
def test_p3o_written_again(joint: bool, m: int) -> None:
    """Over all ordered pairs: V1 has each response's own term, V2 the pair's."""
    setting = Setting(staleness=4, reward="graded", group=m, prompts=3, old="sampler")
    clip = {"objective.clip": "joint" if joint else "separate"}
    assert_same_gradient("p3o-pairwise", lambda c: pairwise_loss(c, joint, m), setting, **clip)


def test_p3o_sees_no_offset_of_a_prompt() -> None:
    batch = make([[3, 2], [1, 4]], [[1, 0], [2, 5]], drift=0.2)
    moved = batch.with_sequences(reward=batch.sequences["reward"] + torch.tensor([64.0, -32.0])[batch.group])
    for clip in ("separate", "joint"):
        (a, ga), (b, gb) = (loss_and_gradient(Pairwise(clip=clip), x) for x in (batch, moved))
        assert torch.equal(a, b) and torch.equal(ga, gb)


def test_p3o_variants_agree_at_the_start_and_differ_in_common_drift() -> None:
    batch = make([[3, 2]], [[1, 0]], drift=0.0)
    for clip in ("separate", "joint"):
        gradient = loss_and_gradient(Pairwise(clip=clip), batch)[1]
        assert gradient.tolist() == pytest.approx([-0.5] * 3 + [0.5] * 2)
    up = torch.tensor([0.1] * 3 + [0.15] * 2, dtype=torch.float64)  # both responses' log-ratios rise by 0.3
    together = batch.with_rows(logp=batch["logp"] + up)
    joint, separate = (loss_and_gradient(Pairwise(clip=clip), together)[1] for clip in ("joint", "separate"))
    assert joint.tolist() == pytest.approx([-0.6] * 3 + [0.6] * 2), "only the weight, clipped at 1.2, has changed"
    assert separate.tolist() == pytest.approx([0.0] * 3 + [0.6] * 2), "the first response may not rise further"


@pytest.mark.exact("p3o-pairwise")
def test_p3o_is_unbiased_on_policy() -> None:
    """Over every pair of responses: the gradient of E[R] - 0.05 KL(pi || ref), the reference being another policy."""
    mean, true = expectation(method("p3o-pairwise", **{"credit.shaping": []}), SMALL)
    torch.testing.assert_close(mean, true, rtol=1e-10, atol=1e-12)


def test_a_single_response_has_no_pair() -> None:
    loss, gradient = loss_and_gradient(Pairwise(), make([[3], [2]], [[1], [0]]))
    assert float(loss) == 0 and not gradient.any()
