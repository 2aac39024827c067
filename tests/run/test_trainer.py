"""The loop on an enumerable policy: reproducibility, resuming, and independence of how the work is cut."""

from __future__ import annotations

import copy

import pytest
import torch

from anypo.claims.beds.exact import Testbed
from anypo.errors import UserError
from anypo.objective import PolicyGradient
from anypo.run.trainer import Trainer
from anypo.update.pulls import cut

BED = Testbed(vocabulary=3, horizon=3, prompts=3, batch=3, group=4, kind="linear")
TIMES = ("time/", "rollout/tokens_per_second")


def trainer(system: str = "grpo", total: int = 8, **changes: object) -> Trainer:
    algorithm = BED.adapt(system).set({key.replace("__", "."): value for key, value in changes.items()})
    return Trainer(algorithm, BED.world(seed=3), seed=11, total=total)


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(TIMES)}


def test_same_seed_same_run() -> None:
    first, second = trainer(), trainer()
    for _ in range(3):
        assert numbers(first.step()) == numbers(second.step())


def test_another_seed_another_run() -> None:
    algorithm = BED.adapt("grpo")
    a = Trainer(algorithm, BED.world(seed=3), seed=11, total=4)
    b = Trainer(algorithm, BED.world(seed=3), seed=12, total=4)
    a.step(), b.step()
    first, second = ([[t.text for t in group.trajectories] for group in run.groups] for run in (a, b))
    assert first != second


@pytest.mark.parametrize("system", ["grpo"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(system: str) -> None:
    changes = {"update__epochs": 2, "update__minibatches_per_epoch": 2}
    whole = trainer(system, **changes)
    for _ in range(3):
        whole.step()
    state = copy.deepcopy(whole.state_dict())
    rest = [numbers(whole.step()) for _ in range(4)]
    resumed = trainer(system, **changes)
    resumed.load_state_dict(state)
    assert [numbers(resumed.step()) for _ in range(4)] == rest
    assert torch.equal(whole.weights.policy.weight, resumed.weights.policy.weight)


def test_the_update_does_not_depend_on_the_micro_batch_size() -> None:
    whole = trainer(engine__token_budget=100_000, update__epochs=2)
    tiny = trainer(engine__token_budget=1, update__epochs=2)
    for _ in range(3):
        whole.step(), tiny.step()
    assert torch.allclose(whole.weights.policy.weight, tiny.weights.policy.weight, rtol=1e-10, atol=1e-12)


def test_groups_without_signal_leave_the_weights_alone() -> None:
    run = trainer(control__samples=1)  # a group of one is its own baseline
    before = run.weights.policy.weight.detach().clone()
    metrics = run.step()
    assert torch.equal(before, run.weights.policy.weight)
    assert metrics["credit/live_share"] == 0.0 and run.weights.policy.version == 0


def test_non_finite_losses_are_skipped_counted_and_end_in_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyGradient, "loss", lambda self, batch, context: batch["logp"].sum() * torch.nan)
    run = trainer(update__patience=2)
    before = run.weights.policy.weight.detach().clone()
    assert run.step()["update/skipped"] == 1.0
    assert torch.equal(before, run.weights.policy.weight)
    with pytest.raises(UserError, match=r"not finite in 2 optimiser steps in a row.*update\.optimiser\.lr"):
        run.step()


def test_dynamic_sampling_fills_the_batch_or_gives_up_after_its_rounds() -> None:
    run = trainer(filter__rounds=6, filter__survival=["drop_degenerate"])
    run.step()
    assert all(len({t.reward for t in group.trajectories}) > 1 for group in run.groups)
    assert len(run.groups) <= 3


def test_micro_batches_partition_the_sequences_and_respect_the_budget() -> None:
    run = trainer()
    run.step()
    assert run.batch is not None
    pieces = cut(run.batch, 5)
    assert torch.cat(pieces).tolist() == list(range(run.batch.n_sequences))
    lengths = run.batch.sequences["length"]
    assert all(len(piece) == 1 or int(lengths[piece].sum()) <= 5 for piece in pieces)
