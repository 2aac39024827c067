"""The exact properties of `anypo.systems.engines.execution`, as the sources state them."""

from __future__ import annotations

import math

import pytest
import torch
from making_systems import BED, trainer, weights

from anypo.data.batch import Batch
from anypo.exact.bench import Setting, scene
from anypo.exact.estimators import Estimator
from anypo.systems import find

SHORTCUT = {
    "objective.ratio": "token",
    "objective.corrections.0.ratio.numerator": "old",
    "update.reference": "none",
}


def stale(changes: dict | None = None, noise: float = 0.0, lag: int = 3, steps: int = 6) -> Batch:
    """The last batch of a run whose responses were written by several versions."""
    bed = BED.replace(lag=lag, versions="partial", noise=noise, lr=0.3, group=16)
    run = trainer("missing-old-logits", {"replay": "on_policy"} | (changes or {}), bed)
    for _ in range(steps):
        run.step()
    assert run.batch is not None
    return run.batch


@pytest.mark.exact("missing-old-logits")
def test_snapshots_split_the_total_ratio_exactly() -> None:
    batch = stale(noise=0.3)
    assert len(torch.unique(batch["version"])) > 2
    discrepancy = batch["logp_ref"] - batch["logp_behaviour"]
    staleness = batch["logp_old"] - batch["logp_ref"]
    torch.testing.assert_close(discrepancy + staleness, batch["logp_old"] - batch["logp_behaviour"])
    assert float(discrepancy.abs().max()) > 0.05 and float(staleness.abs().max()) > 0.05
    quiet = stale(noise=0.0)
    torch.testing.assert_close(quiet["logp_ref"].float(), quiet["logp_behaviour"], rtol=0, atol=1e-5)
    false = (quiet["logp_old"].float() - quiet["logp_behaviour"]).abs()
    assert float(false.max()) > 0.05, "without snapshots staleness passes for a discrepancy"


def test_no_staleness_leaves_only_the_engines_error_and_averaging_without_memory_is_the_shortcut() -> None:
    fresh = stale(noise=0.3, lag=0)
    torch.testing.assert_close(fresh["logp_ref"], fresh["logp_old"], rtol=0, atol=1e-7)
    ema = stale({"update.reference": {"part": "ema", "decay": 0.0}}, noise=0.3)
    torch.testing.assert_close(ema["logp_ref"], ema["logp_old"], rtol=0, atol=1e-7)
    bed = BED.replace(lag=3, versions="partial", noise=0.3)
    averaged = {"update.reference": {"part": "ema", "decay": 0.0}}
    runs = [trainer("missing-old-logits", changes, bed) for changes in (averaged, SHORTCUT)]
    for _ in range(5):
        for run in runs:
            run.step()
    torch.testing.assert_close(runs[0].weights.policy.weight, runs[1].weights.policy.weight, rtol=1e-5, atol=1e-6)


def test_a_version_that_is_gone_is_replaced_by_the_closest_one() -> None:
    bed = BED.replace(lag=5, lr=0.3)
    run = trainer("missing-old-logits", {"update.reference.keep": 2}, bed)
    for _ in range(6):
        run.step()
    shelf, last = run.weights.reference, run.weights.policy.version
    assert sorted(shelf.kept) == [last - 1, last]
    assert run.batch is not None and int(run.batch["version"].max()) < last - 1
    found = shelf.fill(run.batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(found, shelf.kept[last - 1].fill(run.batch, ["logp"], grad=False)["logp"])
    empty = run.batch.select(torch.zeros(0, dtype=torch.int64))
    assert len(shelf.fill(empty, ["logp"], grad=False)["logp"]) == 0


def test_the_estimator_table_compares_with_the_version_that_sampled() -> None:
    """On the bench's path of policies, without engine noise, the reference is the sampler itself."""
    setting = Setting(staleness=16, versions="mixed", old="trainer")
    estimator = Estimator(find("missing-old-logits").algorithm(), scene(setting), seed=1)
    batch = next(estimator._batches(1))(estimator.context(0))
    assert len(torch.unique(batch["version"])) > 3
    torch.testing.assert_close(batch["logp_ref"], batch["logp_behaviour"].double(), rtol=0, atol=1e-6)


def test_the_shortcut_needs_no_reference_and_trains() -> None:
    run = trainer("missing-old-logits", SHORTCUT, BED.replace(lag=2))
    assert run.weights.reference is None
    assert all(math.isfinite(value) for value in run.step().values())


def test_a_resumed_run_has_its_snapshots_back() -> None:
    """It has no stale samplers, so the state itself is what must come back."""
    bed = BED.replace(lag=2, versions="partial", noise=0.1, group=16)
    run = trainer("missing-old-logits", bed=bed)
    start = weights(run, 0)
    assert not torch.equal(weights(run, 3), start)
    again = trainer("missing-old-logits", bed=bed)
    again.load_state_dict(run.state_dict())
    assert run.batch is not None
    mine, theirs = (r.weights.reference.fill(run.batch, ["logp"], grad=False)["logp"] for r in (run, again))
    assert torch.equal(mine, theirs) and len(again.weights.reference.kept) == 4
