"""Attribution: the rollouts' gradients add up to the step's, which is autograd's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anypo.claims.beds.exact import Testbed
from anypo.context import Context
from anypo.data.batch import Batch
from anypo.diagnose.attribution import attribute, contributions
from anypo.errors import UserError
from anypo.run.disk import checkpoint
from anypo.run.disk.folder import RunFolder
from anypo.run.trainer import Trainer


def stepped(system: str, seed: int = 3, **fields):
    """A trainer in an exact world, and a fresh batch for its weights with columns and advantages."""
    bed = Testbed(**fields)
    trainer = Trainer(bed.adapt(system), bed.world(seed), seed, 5)
    trainer.step()
    context = Context(1, 5, seed, trainer.memory)
    trainer.producer.produce(context)
    batch = trainer.weights.fill(Batch.pack(trainer.groups))
    return trainer, trainer.algorithm.credit.assign(batch, context), context


@pytest.mark.parametrize("system", ["grpo", "rloo", "dapo", "gspo", "dr-grpo"])
def test_contributions_add_up_to_autograds_gradient(system):
    trainer, batch, context = stepped(system, reward="graded")
    policy = trainer.weights.policy
    whole, columns, norms, inner = contributions(trainer.weights, batch, context)

    # independently: the loss as one graph down to the weights
    live = batch.with_rows(**policy.fill(batch, sorted(trainer.weights.names.live["policy"]), grad=True))
    loss = trainer.algorithm.objective.loss(live, Context(1, 5, 3, trainer.memory))
    expected = torch.autograd.grad(loss, list(policy.parameters()))
    expected = torch.cat([g.reshape(-1).double() for g in expected])
    assert float(expected.norm()) > 1e-6
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-8)
    assert inner.sum() == pytest.approx(float(whole @ whole), rel=1e-6)  # sum_s <g_s, g> = |g|^2
    assert (np.abs(inner) <= norms * float(whole.norm()) * (1 + 1e-9)).all()
    assert norms.sum() >= float(whole.norm()) * (1 - 1e-9)
    assert columns["logp"].shape == (len(batch),)


def test_coefficients_are_the_derivative_by_log_probability():
    trainer, batch, context = stepped("grpo", reward="graded")
    _, columns, _, _ = contributions(trainer.weights, batch, context)
    loss = trainer.algorithm.objective.loss
    row, eps = int(columns["logp"].abs().argmax()), 1e-4

    def shifted(by: float) -> float:
        logp = batch["logp_old"].double().clone()
        logp[row] += by
        return float(loss(batch.with_rows(logp=logp), Context(1, 5, 3, trainer.memory)))

    numeric = (shifted(eps) - shifted(-eps)) / (2 * eps)
    assert float(columns["logp"][row]) == pytest.approx(numeric, rel=1e-3)


def test_a_rollout_without_advantage_moves_nothing():
    trainer, batch, context = stepped("dr-grpo", reward="graded")
    advantage = batch["advantage"].clone()
    advantage[batch.sequence == 0] = 0.0
    _, _, norms, inner = contributions(trainer.weights, batch.with_rows(advantage=advantage), context)
    assert norms[0] == 0.0 and inner[0] == 0.0 and norms[1:].max() > 0


def test_weights_and_gradients_are_left_as_they_were():
    trainer, batch, context = stepped("grpo")
    before = [p.detach().clone() for p in trainer.weights.policy.parameters()]
    contributions(trainer.weights, batch, context)
    for old, new in zip(before, trainer.weights.policy.parameters()):
        assert torch.equal(old, new) and new.grad is None


def test_a_stored_step_has_the_gradient_norm_that_was_recorded(trained):
    path, _ = trained
    for step in (1, 7):
        recorded = RunFolder.read(path).metrics()[step - 1]["update/grad_norm"]
        found = attribute(path, step)
        assert recorded > 0
        assert found.norm == pytest.approx(recorded, rel=1e-3)
        assert sum(row.share for row in found.rollouts) == pytest.approx(1.0, abs=1e-3)
        assert not found.notes
        assert all(len(row.pieces) == len(row.coefficients) for row in found.rollouts)


def thinned(path: Path, tmp_path: Path, kept: set[int]) -> Path:
    """A copy of the run with these of its checkpoints."""
    copy = tmp_path / "thin"
    shutil.copytree(path, copy)
    for step in RunFolder.read(copy).checkpoints():
        if step not in kept:
            checkpoint.remove(copy / "checkpoints" / f"step-{step:06d}")
    assert set(RunFolder.read(copy).checkpoints()) == kept
    return copy


@pytest.mark.parametrize("kept", [{4}, {9, 10}])
def test_steps_taken_again_give_the_weights_of_any_step(trained, tmp_path, kept):
    path, _ = trained
    run, heard = thinned(path, tmp_path, kept), []
    files = sorted(file.name for file in run.rglob("*"))
    found, whole = attribute(run, 7, recompute=True, tell=heard.append), attribute(path, 7)
    assert heard[-1] == (2 if 4 in kept else 6) and not found.notes
    assert found == whole, "to the last bit"
    assert files == sorted(file.name for file in run.rglob("*")), "nothing is written"
    if 4 in kept:
        (said,) = attribute(run, 7).notes
        assert "checkpoint after step 4, not of the beginning of step 7; --recompute takes 2 steps again" in said
    else:
        with pytest.raises(UserError, match=r"left \(kept: 9, 10\).*or begin anew: --recompute takes 6 steps again"):
            attribute(run, 7)


def test_a_step_that_comes_out_otherwise_is_said(trained, tmp_path):
    path, _ = trained
    run = thinned(path, tmp_path, {4})
    rows = (run / "metrics.jsonl").read_text().splitlines()
    other = json.loads(rows[4]) | {"update/grad_norm": 0.5}
    (run / "metrics.jsonl").write_text("\n".join([*rows[:4], json.dumps(other), *rows[5:]]) + "\n")
    (said,) = attribute(run, 7, recompute=True).notes
    assert said.startswith("step 5 taken again is not what was recorded")


def test_refusals(trained):
    path, _ = trained
    with pytest.raises(UserError, match="no rollouts of step 99"):
        attribute(path, 99)
