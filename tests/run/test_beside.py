"""How far a run is from its base: the numbers against derivations written out here, and nothing of the run changed by looking."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.compare.notes import _bases
from anypo.context import Context, Memory
from anypo.credit.centres.groups import GroupMean
from anypo.data.kept import Kept
from anypo.run.beside import sentence, standing
from anypo.run.beside.angle import Angle
from anypo.run.beside.base import candidates
from anypo.run.beside.beside import ROOMS, TOLERANCE
from anypo.run.beside.rooms import differing, plain
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Testbed(kind="linear", vocabulary=3, horizon=4, prompts=4, batch=4, group=6, lr=0.3)


def trainer(system: str | Algorithm, bed: Testbed = BED, beside: bool = True, **changes) -> Trainer:
    return Trainer(bed.adapt(system).set(changes), bed.world(3), 3, 20, beside)


def steps(run: Trainer, count: int) -> list[dict]:
    return [run.step() | run.witness.said for _ in range(count)]


# -- the twelve that one update on fresh data makes one system ---------------------------------

IDENTICAL = [
    "cispo", "minpro", "bapo", "kl-cov", "r2vpo", "p3o-ess", "rec", "minirl", "gspo", "missing-old-logits", "mhpo", "clip-cov",
]  # fmt: skip


def only_objective(name: str) -> dict:
    """Changes that leave of a system what it does to ratios: the credit and the mean are its base's."""
    base = find(find(name).base).algorithm()
    return {"credit": base.credit.dump(), "objective.aggregate": base.objective.aggregate.dump()}  # type: ignore[attr-defined]


FRESH = {"update.epochs": 1, "update.minibatches_per_epoch": 1, "replay": "on_policy"}


@pytest.mark.parametrize("name", IDENTICAL)
def test_one_update_on_fresh_data_is_the_base(name: str) -> None:
    changes = {"objective.trust.rate": 0.0} if name == "clip-cov" else {}  # it takes the gradient of a row even then
    found = steps(trainer(name, **only_objective(name), **FRESH, **changes), 3)
    assert all(abs(1 - row["base/cosine"]) <= TOLERANCE for row in found)
    if find(name).base != "cispo":  # whose own run takes sixteen steps on a batch, and not one
        assert all(row["base/same"] == 1 for row in found), found
        assert standing(found).inert  # type: ignore[union-attr]
    factor = 0.735 if name == "mhpo" else 0.0  # a constant factor is a distance, and no angle
    assert all(row["base/distance"] == pytest.approx(factor, abs=1e-3) for row in found)


@pytest.mark.parametrize("name", IDENTICAL)
def test_several_updates_on_one_batch_are_not(name: str) -> None:
    bed = BED.replace(lag=3, noise=0.3) if name in ("missing-old-logits", "minirl", "p3o-ess", "r2vpo") else BED
    found = steps(trainer(name, bed, **only_objective(name), **{"update.epochs": 4, "update.optimiser.lr": 0.05}), 3)
    assert min(row["base/same"] for row in found) == 0, found
    assert max(row["base/coefficients"] for row in found) > 1e-6
    assert "coefficients" in sentence(standing(found))


def test_parts_that_do_nothing_are_named_though_the_run_is_not_its_base() -> None:
    found = steps(trainer("cispo", **FRESH), 3)
    assert all(row["base/same"] == 0 and row["base/part/objective.aggregate"] > 1e-4 for row in found)
    assert all(row["base/part/objective.trust"] <= TOLERANCE for row in found)
    said = sentence(standing(found))
    assert said.startswith(
        "In each of 3 steps this run did something else than grpo would have: other coefficients. The pull"
    )
    assert said.endswith("No difference in any step came from objective.trust.")


# -- the numbers ---------------------------------


def slopes(algorithm: Algorithm, batch, context: Context) -> np.ndarray:
    """d loss / d logp by central differences, row by row, float64."""
    logp, h, out = batch["logp"].detach().double(), 1e-6, []
    for row in range(len(logp)):
        ends = []
        for sign in (1, -1):
            moved = logp.clone()
            moved[row] += sign * h
            ends.append(float(algorithm.objective.loss(batch.with_rows(logp=moved), context)))  # type: ignore[attr-defined]
        out.append((ends[0] - ends[1]) / (2 * h))
    return np.array(out)


@pytest.mark.parametrize("name", ["dr-grpo", "gspo", "gbpo", "d3s", "kl-cov"])
def test_the_angle_is_that_of_gradients_enumerated_decision_by_decision(name: str) -> None:
    """Stale rollouts, so that ratios are not 1; d3s drops decisions, which count as zero."""
    run, seen = trainer(name, BED.replace(lag=3, old="sampler", lr=0.02, reward="graded"), **FRESH), []
    shown = run.weights.witness
    run.weights.witness = lambda pull, context: (seen.append((pull, context)), shown(pull, context))  # type: ignore[misc]
    found = steps(run, 4)
    (pull, context), row, beside = seen[-1], found[-1], run.witness.base.batch  # type: ignore[attr-defined]
    _, base = next(candidates(run.algorithm))
    base = Algorithm.from_dict(base.dump())
    present = dict(zip(pull.batch["row"].tolist(), pull.batch["logp"].tolist()))
    logp = [present.get(r, old) for r, old in zip(beside["row"].tolist(), beside["logp_old"].tolist())]
    kept = dict(zip(pull.batch["row"].tolist(), slopes(run.algorithm, pull.batch, context)))
    a = np.array([kept.get(r, 0.0) for r in beside["row"].tolist()])
    alone = Context(context.step, 20, 3, Memory(base))
    b = slopes(base, beside.with_rows(logp=torch.tensor(logp, dtype=torch.float64)), alone)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cosine < 1 - 1e-4, "two equal vectors show nothing"
    assert row["base/cosine"] == pytest.approx(cosine, abs=1e-6)
    assert row["base/distance"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-5)
    assert (len(kept) < len(beside)) == (name == "d3s")


def test_an_angle_in_pieces_is_that_of_the_whole_and_always_a_number() -> None:
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    angle = Angle()
    for piece in range(0, 40, 7):
        angle.add(a[piece : piece + 7], b[piece : piece + 7])
    assert angle.cosine == pytest.approx(float(torch.cosine_similarity(a, b, 0)), abs=1e-12)
    assert angle.distance == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-12)
    zero, one = torch.zeros(3), torch.ones(3)
    for x, y, cosine, distance in ((zero, zero, 1, 0), (zero, one, 0, 1), (one, zero, 0, 1), (one, 2 * one, 1, 0.5)):
        angle = Angle()
        angle.add(x, y)
        assert (angle.cosine, angle.distance) == pytest.approx((cosine, distance))


# -- looking changes nothing, and goes on where it was ---------------------------------

STATEFUL = ["brorl", "mssr", "v-zero", "riskpo", "r2vpo", "poise", "ppo", "dapo"]


@pytest.mark.parametrize("name", STATEFUL)
def test_a_run_with_its_base_beside_it_is_the_run_alone(name: str) -> None:
    bed = BED.replace(group=16) if name == "brorl" else BED
    runs = [trainer(name, bed, beside) for beside in (True, False)]
    for _ in range(3):
        watched, alone = (run.step() for run in runs)
        assert {k for k in watched if k not in alone} <= {k for k in watched if k.startswith("base/")} | {"time/base"}
        times = ("time/", "rollout/tokens_per")
        assert all(watched[k] == alone[k] or math.isnan(alone[k]) for k in alone if not k.startswith(times))
    assert torch.equal(runs[0].weights.policy.weight, runs[1].weights.policy.weight)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_run_is_as_far_from_its_base_as_one_in_one_piece(name: str) -> None:
    bed = BED.replace(group=16) if name == "brorl" else BED
    run = trainer(name, bed)
    steps(run, 2)
    state, again = copy.deepcopy(run.state_dict()), trainer(name, bed)
    again.load_state_dict(state)
    for before, after in zip(steps(run, 2), steps(again, 2), strict=True):
        assert {k: v for k, v in before.items() if k.startswith("base")} == {
            k: v for k, v in after.items() if k.startswith("base")
        }


# -- room by room ---------------------------------


def test_rooms_around_the_losses() -> None:
    by_room = lambda name, bed=BED, **changes: {
        room: max(row.get(f"base/{room}", 0.0) for row in steps(trainer(name, bed, **changes), 2)) for room in ROOMS
    }
    sparse = BED.replace(reward="sparse")
    dapo = by_room("dapo", sparse)
    assert 0 < dapo["prompts"] < 1 and dapo["rollouts"] == 0 and dapo["kept"] > 0  # it asks for more
    assert by_room("mc-grpo")["prompts"] == 1.0  # a rollout more of every prompt
    assert by_room("drive")["prompts"] == 0.0  # its first half asks as uniform control does
    ppo = by_room("ppo")
    assert ppo["update"] == 0.75 and ppo["advantages"] > 0  # four epochs for one
    assert by_room("a-lol")["update"] == 1.0  # it only collects at first
    assert by_room("grpo", **{"update.schedule": "linear"})["update"] == 0.0  # a change of the user is the base's, too
    assert by_room("fapo")["rollouts"] == 0.0


def test_multisets() -> None:
    assert differing([1, 1, 2], [1, 2, 2]) == pytest.approx(1 / 3)
    assert differing([], []) == 0.0 and differing([1], []) == 1.0


def test_a_rollout_that_shows_help_is_not_a_plain_one() -> None:
    run = trainer("grpo")
    run.step()
    t = run.groups[0].trajectories[0]
    fine = lambda one, most=4, version=0: plain(one, most, 1, version)
    assert fine(t)
    assert not fine(t.replace(guidance="hint")) and not fine(t.replace(tag="aux")) and not fine(t.replace(parent=0))
    some = Kept.of([np.array([0])] * len(t))
    assert not fine(t, version=1) and not fine(t.replace(kept=some, log_mass=np.full(len(t), -0.1)))
    assert fine(t.replace(log_mass=np.full(len(t), -0.1))), (
        "of what no text is made of, every rollout leaves out as much"
    )
    assert fine(t.replace(finish="length"), most=len(t)) and not fine(t.replace(finish="length"), most=len(t) + 1)


# -- which base ---------------------------------


def test_the_base_has_the_changes_of_the_run_where_the_two_systems_share_them() -> None:
    changed = find("dapo").algorithm().set({"control.prompts": 3, "objective.trust.high": 0.5, "update.epochs": 2})
    name, base = next(candidates(changed))
    assert name == "grpo" and base.control.prompts == 3 and base.update.epochs == 2  # type: ignore[attr-defined]
    assert base.objective.trust.high == 0.2  # type: ignore[attr-defined]
    assert [n for n, _ in candidates(find("minpro").algorithm())][:2] == ["cispo", "grpo"]


def test_a_base_is_given_no_model_that_it_does_not_ask_for() -> None:
    cast = [{"role": "prm", "model": "self"}, {"role": "teacher", "model": "self"}]
    name, base = next(candidates(find("scope-rlvr").algorithm().set({"models": cast, "control.prompts": 3})))
    assert name == "grpo" and not base.models and base.control.prompts == 3  # type: ignore[attr-defined]


def test_an_algorithm_of_ones_own_is_held_against_grpo_in_its_own_surroundings() -> None:
    own = Algorithm(name="mine").set({"control.prompts": 5, "credit.centre": "group_median"})
    name, base = next(candidates(own))
    assert name == "grpo" and base.control.prompts == 5 and base.credit.centre == GroupMean()  # type: ignore[attr-defined]
    assert standing(steps(trainer(own), 2)).rooms  # type: ignore[union-attr]


def test_what_cannot_be_compared_says_why_and_logs_nothing() -> None:
    run = trainer("opsd")
    assert run.witness.name == "" and "it reads 'logp'" in run.witness.why  # type: ignore[attr-defined]
    found = steps(run, 1)
    assert not [name for name in found[0] if name.startswith("base/") and name != "base/why"]
    assert sentence(standing(found)).startswith("Not compared with a base (grpo: it reads 'logp'")


def test_a_base_without_what_the_run_does_not_fill() -> None:
    run = trainer("t-ppo")
    assert run.witness.name == "ppo" and run.witness.why == "ppo is without credit.shaping.0 (reward_kl)"  # type: ignore[attr-defined]


# -- in words ---------------------------------


def test_sentences_and_the_rows_of_a_comparison() -> None:
    same = [{"base": "grpo", "base/same": 1.0, "base/cosine": 1.0, "base/part/objective.trust": 0.0}] * 3
    assert (
        sentence(standing(same)) == "This run was grpo in 3 of 3 steps: in every room it did what grpo would have done."
    )
    assert sentence(standing([{"reward/mean": 1.0}])) == ""
    idle = [{"base": "grpo", "base/same": 1.0}] * 3
    assert "and none moved any weight" in sentence(standing(idle)) and not standing(idle).inert  # type: ignore[union-attr]
    records = [{"label": n, "base": standing(rows).plain()} for n, rows in (("a", same), ("b", idle), ("a", same))]  # type: ignore[union-attr]
    assert _bases(records) == {"a": ("grpo", 6)}


def test_a_step_whose_credit_leaves_nothing_is_a_step() -> None:
    """SPO's first visits only begin its beliefs: there is nothing to pull at."""
    found = steps(trainer("spo-single-stream", **{"control.first_samples": 8}), 2)
    assert found[0]["base/same"] in (0.0, 1.0) and found[0]["tokens/trained"] == 0.0
