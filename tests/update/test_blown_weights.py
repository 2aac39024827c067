"""Weights that blow up stop the run, with a diagnosis, and leave a checkpoint from before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from anypo.claims.beds.exact import Testbed
from anypo.claims.beds.words import SMALL, TextTask, question
from anypo.context import Context, Memory
from anypo.diagnose import DETECTORS, Evidence
from anypo.diagnose.detector import finding
from anypo.diagnose.health import ailing, dead, last_good
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.loading import load
from anypo.run.disk.folder import RunFolder
from anypo.run.session import train
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.norms import size

SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(4) for b in range(4))


def trainer(system: str, settings: dict[str, Any]) -> Trainer:
    """A run whose rewards differ within every group."""
    task = TextTask(SUMS, lambda problem, text: sum(map(ord, text)) % 17 / 16)
    policy = load(SMALL, seed=0)
    world = World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]
    sizes = {"control.prompts": 2, "control.samples": 4, "generate.max_new": 4}
    return Trainer(find(system).algorithm().set(sizes | settings), world, 0, 10)


@pytest.mark.parametrize("system", ["grpo", "reinforce"])
@pytest.mark.parametrize(
    "optimiser", [{"part": "adamw", "lr": 1e30}, {"part": "sgd", "lr": 1e10}, {"part": "adamw", "lr": 1e3}]
)
def test_steps_that_are_far_too_long_stop_the_run(system: str, optimiser: dict) -> None:
    run = trainer(system, {"update.optimiser": optimiser})
    with pytest.raises(
        UserError, match=r"weights blew up: after step \d.*update\.optimiser\.lr.*checkpoint is from before"
    ):
        for _ in range(3):
            run.step()


def test_a_critic_that_blows_up_is_named() -> None:
    run = trainer("ppo", {"credit.optimiser.lr": 1e38, "update.optimiser.lr": 0.0})
    with pytest.raises(UserError, match=r"weights of 'credit' are not finite.*lower credit\.optimiser\.lr"):
        for _ in range(3):
            run.step()


def test_a_gradient_without_a_norm_is_a_failure_and_skipped() -> None:
    run = trainer("grpo", {"update.patience": 2})
    for parameter in run.weights.policy.parameters():
        parameter.register_hook(lambda gradient: gradient * math.inf)
    before = run.weights.policy.state_dict()
    metrics = run.step()
    assert metrics["update/skipped"] == 1.0 and math.isnan(metrics["update/grad_norm"]) and ailing(metrics)
    assert all(torch.equal(value, before[name]) for name, value in run.weights.policy.state_dict().items())
    with pytest.raises(UserError, match="not finite in 2 optimiser steps in a row"):
        run.step()


def test_a_gradient_above_the_bound_is_thrown_away_and_no_failure() -> None:
    """However often: the optimiser, its moments included, has not seen it."""
    wanted = trainer("ppo", {"update.epochs": 1}).step()["update/grad_norm"]
    for bound, stays in ((0.99 * wanted, True), (1.01 * wanted, False)):
        run = trainer("ppo", {"update.epochs": 1, "update.skip_norm": bound, "update.patience": 1})
        for weight in run.weights.learners["credit"].parameters():
            weight.register_hook(lambda gradient: gradient * 0)
        before = run.weights.policy.state_dict()
        metrics = run.step()
        after = run.weights.policy.state_dict()
        assert metrics["update/too_large"] == stays / 2, "of two learners one"
        assert metrics["update/skipped"] == 0.0 and metrics["update/grad_norm"] == pytest.approx(wanted)
        assert all(torch.equal(after[name], before[name]) for name in after) == stays
        assert bool(run.weights.optimisers["policy"].state_dict()["state"]) != stays
    with pytest.raises(UserError, match="skip_norm"):
        trainer("ppo", {"update.skip_norm": 0.0})


def test_another_learner_that_is_skipped_says_so() -> None:
    run = trainer("ppo", {})
    for parameter in run.weights.learners["credit"].parameters():
        parameter.register_hook(lambda gradient: gradient * math.nan)
    metrics = run.step()
    assert metrics["update/skipped/credit"] == metrics["update/skipped"] == 1.0


def test_growth_is_the_root_mean_square_over_the_initial_one() -> None:
    run = trainer("grpo", {"update.optimiser.lr": 1e-2})
    parameters = list(run.weights.policy.parameters())
    flat = lambda: torch.cat([p.detach().double().flatten() for p in parameters])
    start = flat().square().mean().sqrt()
    assert run.step()["update/weight_growth"] == pytest.approx(float(flat().square().mean().sqrt() / start), rel=1e-5)
    assert size([]) == 0.0 and math.isnan(size([torch.nn.Parameter(torch.tensor([math.nan, 1.0]))]))
    run.weights.moved(Context(0, 1, 0, Memory(run.algorithm)))
    with torch.no_grad():
        parameters[0][0] = math.nan
    with pytest.raises(UserError, match="no longer finite"):
        run.weights.moved(Context(0, 1, 0, Memory(run.algorithm)))


def test_a_table_of_zeros_may_grow() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=3, batch=3, group=4, spread=0.0, lr=0.5)
    run = Trainer(bed.adapt("reinforce"), bed.world(seed=3), 0, 10)
    assert max(run.step().get("update/weight_growth", 0.0) for _ in range(5)) < 10


# -- which checkpoint is good -------------------------------------------------------------------------------------------------


def step(number: int, **changes: float) -> dict[str, float]:
    healthy = {"credit/live_share": 0.5, "update/grad_norm": 1.0, "update/skipped": 0.0, "update/weight_growth": 1.0}
    return {"step": number, **healthy, **{name.replace("__", "/"): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    "sign",
    [
        {"update__skipped": 0.5},
        {"update__skipped/credit": 1.0},
        {"update__grad_norm": 0.0},
        {"update__grad_norm": math.nan},
        {"update__weight_growth": 50.0},
        {"update__weight_growth": math.nan},
    ],
)
def test_signs_of_loss(sign: dict[str, float]) -> None:
    assert ailing(step(1, **sign)) and not ailing(step(1))


def test_a_gradient_of_zero_is_healthy_where_rewards_agree() -> None:
    assert dead(step(1, credit__live_share=0.0, update__grad_norm=0.0)) is None
    assert dead({"step": 1}) is None and not ailing({"step": 1})


def test_a_checkpoint_is_good_once_its_weights_have_worked() -> None:
    healthy = [step(n) for n in range(1, 6)]
    assert last_good([], healthy) is None
    assert last_good([0, 2, 4, 5], healthy) == 4, "nothing has used the weights of step 5 yet"
    assert last_good([0, 2, 4], [*healthy[:4], step(5, update__skipped=1.0)]) == 2
    ruined = [*healthy[:2], step(3, update__weight_growth=90.0), {"step": 4}, {"step": 5}]
    assert last_good([0, 1, 2, 3, 4], ruined) == 1, "weights that nobody moves stay as large as they were"
    assert last_good([0], []) == 0 and last_good([3, 9], [step(n, update__skipped=1.0) for n in (9, 10)]) == 3


def test_rotation_spares_the_last_good_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"control.prompts": 2, "generate.max_new": 4, "update.optimiser.lr": 3.0, "generate.temperature": 1.0}
    train("reinforce", "tiny", steps=5, sft_steps=0, eval_size=0, save_every=1, out=out, set=settings)
    folder = RunFolder.read(out)
    grown = [entry["step"] for entry in folder.metrics() if entry.get("update/weight_growth", 1.0) >= 10]
    assert grown and folder.checkpoints() == [max(grown[0] - 2, 0), 4, 5]


def test_the_detectors_say_what_is_wrong() -> None:
    entries = [step(n, policy__entropy=2.0) for n in range(1, 5)]
    entries += [step(n, policy__entropy=4.58, update__grad_norm=0.0, update__weight_growth=2e4) for n in range(5, 13)]
    run = Evidence(entries)
    blown, still = (finding(DETECTORS[name], run) for name in ("blown_weights", "dead_gradient"))
    assert blown.severity == "severe" and "2e+04-fold by step 5" in blown.evidence
    assert still.severity == "severe" and "4 of 4 late steps" in still.evidence and "maximum, 4.58" in still.evidence
    well = Evidence([step(n) for n in range(1, 13)])
    assert {finding(DETECTORS[name], well).severity for name in ("blown_weights", "dead_gradient")} == {"healthy"}
