"""Methods act in their default runs: several updates or stale rollouts where their ratios need them, and a sentence where a part
cannot act all the same."""

from __future__ import annotations

import pytest
import torch
from making_systems import trainer, weights

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.errors import UserError
from anypo.exact.bed import Testbed
from anypo.freshness import same_sampler, unmoved
from anypo.objective import ConstantLength, PolicyGradient, ScoreFunction, Unclipped
from anypo.outlook import Outlook, moment, part_of
from anypo.run.settings.methods import fitted
from anypo.run.settings.presets import departures, preset_of, shortage, suited
from anypo.systems import find, methods

NEED_RATIOS = (
    "bapo", "cispo", "clip-cov", "dapo", "gbpo", "gspo", "hapo-token", "kl-cov", "mhpo", "minirl", "minpro", "missing-old-logits",
    "p3o-ess", "r2vpo", "rec", "remix", "riskpo", "vcpo",
)  # fmt: skip
"""Methods that are plain policy gradient where every ratio is 1."""


def said(algorithm: Algorithm, steps: int = 20) -> str:
    return " ".join(algorithm.sleepers(Outlook(steps)))


def without(algorithm: Algorithm) -> Algorithm:
    """The plain policy gradient in the same regime: same data, credit and updates, no ratio, trust region, correction or step rule."""
    plain = PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=algorithm.objective.aggregate)
    update = algorithm.update.replace(rules=(), reference="none", references=())
    return algorithm.replace(objective=plain, update=update)


@pytest.mark.parametrize("name", NEED_RATIOS)
def test_the_default_run_is_not_the_plain_policy_gradient(name: str) -> None:
    """Twelve steps of the default regime in a small world, beside the same without ratios: once these were one run to the last bit."""
    bed = Testbed(kind="linear", lr=0.05, prompts=8, batch=8, spread=1.0)
    method = find(name).algorithm()
    ours, plain = weights(trainer(method, bed=bed), 12), weights(trainer(without(method), bed=bed), 12)
    assert float((ours - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NEED_RATIOS)
def test_no_trust_region_or_correction_of_theirs_is_idle(name: str) -> None:
    told = said(find(name).algorithm(), 200)
    if name == "missing-old-logits":  # the embedded engine makes no error, which is said
        told = told.removeprefix("objective.corrections.0 (masked) is idle: the embedded engine computes")
    assert "objective" not in told and "update" not in told, told


def test_recs_mask_fires_on_stale_data_and_sees_nothing_against_the_steps_own_policy() -> None:
    bed = Testbed(kind="linear", lr=0.1)
    metrics = [run.step() for run in [trainer("rec", bed=bed)] for _ in range(30)]
    assert max(m["objective/clip_fraction"] for m in metrics) > 0.1
    assert max(m["objective/ratio_max"] for m in metrics) > 1.5
    blind = [run.step() for run in [trainer("rec", {"objective.ratio.denominator": "old"}, bed)] for _ in range(8)]
    assert all(m["objective/clip_fraction"] == 0 and m["objective/ratio_max"] == 1 for m in blind)


def test_an_idle_trust_region_says_what_would_wake_it() -> None:
    told = said(find("grpo").algorithm())
    assert told.startswith(
        "objective.trust (clip) is idle: one update on fresh data leaves every ratio at 1, which is no fault"
    )
    assert "set update.minibatches_per_epoch=4" in told
    assert said(find("grpo").algorithm().set({"update.minibatches_per_epoch": 4})) == ""
    assert said(find("grpo").algorithm().set({"update.epochs": 2})) == ""


def test_one_update_on_fresh_data_is_told_from_every_way_in_which_data_ages() -> None:
    over = {"objective.ratio": {"part": "token", "denominator": "behaviour"}}
    fresh = Algorithm().set(over)
    assert "only this step's rollouts are; set replay=delayed" in said(fresh)
    for change in (
        {"replay": "delayed"},
        {"replay": "buffer"},
        {"engine": "remote"},
        {"engine.reuse_logp": "always"},
        {"generate": "adaptive_temperature"},
        {"update.epochs": 2},
    ):
        assert "objective.trust" not in said(fresh.set(change)), change
    old = Algorithm().set({"replay": "delayed"})
    assert "objective.trust" in said(old), "old data has a ratio of 1 to the step's own policy all the same"
    assert said(Algorithm().set({"objective.corrections": ["truncated"], "update.epochs": 2})).startswith(
        "objective.corrections.0 (truncated) is idle: the embedded engine samples with the very policy"
    )
    assert same_sampler(Algorithm()) and not same_sampler(old) and unmoved(old)


def test_certain_ratios_are_told_from_those_that_may_move() -> None:
    """Each said to act, or not to, against what is the case."""
    mismatch = {"objective.corrections": ["truncated"], "replay": "delayed"}
    assert said(Algorithm().set(mismatch), 200).count("corrections") == 0
    reused = said(Algorithm().set(mismatch | {"engine.reuse_logp": "always"}), 200)
    assert "takes the sampler's log-probabilities for the old ones" in reused, (
        "old / behaviour is 1 then, whatever the age"
    )
    assert "objective.trust" not in reused
    missing = find("missing-old-logits").algorithm()
    assert "objective.corrections.0 (masked) is idle: the embedded engine" in said(missing, 200)
    assert "corrections" not in said(missing.set({"engine": "remote"}), 200)
    assert "corrections" not in said(missing.set({"update.reference": {"part": "ema"}}), 200)
    one = Algorithm().set({"control.prompts": 1, "update.minibatches_per_epoch": 4})
    assert "a step has one prompt" in said(one) and not said(one.set({"update.epochs": 2}))
    experts = Algorithm().set({"generate": "with_experts", "objective.ratio.denominator": "behaviour"})
    assert "objective.trust" not in said(experts), "experts did not sample from the policy"
    windows = {"generate": "windowed", "objective.ratio.denominator": "behaviour"}
    assert "objective.trust" not in said(Algorithm().set(windows)), "decisions of earlier windows are older"


def test_a_band_for_whole_responses_is_refused_for_single_tokens() -> None:
    gspo = find("gspo").algorithm()
    for ratio in ("token", {"part": "sequence", "normalise": False}, {"part": "sequence", "span": "turn"}):
        with pytest.raises(UserError, match="geometric means"):
            gspo.set({"objective.ratio": ratio}).check()
        gspo.set({"objective.ratio": ratio, "objective.trust.length": None}).check()
    gspo.set({"objective.ratio": "sequence_token"}).check()


def test_snapshots_reach_as_far_back_as_rollouts_are_old() -> None:
    with pytest.raises(UserError, match=r"set update\.reference\.keep=13"):
        find("missing-old-logits").algorithm().set({"replay.lag": 12}).check()
    find("missing-old-logits").algorithm().set({"replay.lag": 12, "update.reference.keep": 13}).check()


def test_parts_that_act_at_a_ratio_of_one_are_not_called_idle() -> None:
    for trust in ("none", "heterogeneous_clip", "clip_cov", {"part": "bounded_ratio", "threshold": "quantile"}):
        assert said(Algorithm().set({"objective.trust": trust})) == "", trust
    mask = {"part": "mask", "weight": "advantage"}
    assert said(Algorithm().set({"objective.trust": mask})) == ""
    assert "kl_cov" in said(Algorithm().set({"objective.trust": "kl_cov"})), "d |x| / dx at 0 is 0"


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (
            "dapo",
            {"generate.max_new": 16},
            "no answer is longer than 16 tokens, and punishment begins after 16384",
        ),
        ("remix", {"update.reference.at": 50}, "step 50 is not reached in 20 steps; set update.reference.at"),
        ("a-lol", {"replay.collect": 50}, "step 50 is not reached in 20 steps; set replay.collect"),
        ("chord", {"objective.mixing.decay": 200}, "for 20 of 200 steps are planned; set objective.mixing.decay=0.5"),
        ("safe-rlhf-pid", {"objective.regularise.1.window": 50}, "40 optimiser steps are planned"),
        ("ipa-chunk", {}, "generate.turns=1, so that every answer is one turn"),
        ("brorl", {}, "it is not renewed in 20 steps"),
    ],
)
def test_what_a_short_run_never_reaches_is_said(name: str, changes: dict, expected: str) -> None:
    assert expected in said(find(name).algorithm().set(changes))


@pytest.mark.parametrize("name", ["remix", "a-lol", "chord", "safe-rlhf-pid", "t-ppo"])
@pytest.mark.parametrize("steps", [20, 200])
def test_schedules_are_reached_in_runs_of_any_length(name: str, steps: int) -> None:
    told = said(find(name).algorithm(), steps)
    assert "not reached" not in told and "planned" not in told, told


def test_moments_are_steps_from_one_on_and_shares_below() -> None:
    assert [moment(when, 20) for when in (1, 7, 50, 0.5, 0.3, 1 / 7, 0.01)] == [1, 7, 50, 10, 6, 3, 1]
    assert moment(50 / 350, 350) == 50, "the paper's own run has the paper's own step"
    assert [part_of(amount, 64) for amount in (0, 3, 0.5, 60 / 2560, 1e-6)] == [0, 3, 32, 2, 1]
    assert part_of(60 / 2560, 2560) == 60


@pytest.mark.parametrize(
    ("groups", "pieces", "sizes"), [(9, 4, [3, 2, 2, 2]), (8, 16, [1] * 8), (1, 16, [1]), (6, 3, [2] * 3)]
)
def test_minibatches_are_even_and_never_more_than_groups(groups: int, pieces: int, sizes: list[int]) -> None:
    run = trainer("grpo", {"update.minibatches_per_epoch": pieces}, Testbed(prompts=groups, batch=groups, group=2))
    run.step()
    assert run.weights.steps == len(sizes) and run.batch is not None
    cuts = run.algorithm.update.minibatches(run.batch, Context(0, 10, 0, run.memory))
    assert [len(torch.unique(run.batch.group[index])) for index in cuts] == sizes


@pytest.mark.parametrize(
    ("tagged", "pieces", "sizes"),
    [
        ([0, 0, 1, 0, 1, 1], 2, [4, 2]),  # 3 of the others in 2 + 1, the 3 of the tag in 2 + 1
        ([1, 1, 1, 0, 1, 0], 16, [3, 3]),  # no minibatch of the tag alone, however many are asked for
        ([1, 1, 1], 2, [2, 1]),
    ],
)
def test_the_losses_of_a_batch_meet_in_every_minibatch(tagged: list[int], pieces: int, sizes: list[int]) -> None:
    """A loss with steps of its own has no weight left after Adam."""
    run = trainer("grpo", {"update.minibatches_per_epoch": pieces}, Testbed(prompts=8, batch=len(tagged), group=2))
    run.step()
    assert run.batch is not None
    batch = run.batch.with_sequences(**{"tag/target": torch.tensor(tagged, dtype=torch.bool).repeat_interleave(2)})
    cuts = list(run.algorithm.update.minibatches(batch, Context(0, 10, 0, run.memory)))
    assert [len(torch.unique(batch.group[index])) for index in cuts] == sizes
    assert sorted(torch.cat(cuts).tolist()) == list(range(batch.n_sequences))
    if 0 in tagged:
        assert all(batch.tagged("")[index].any() for index in cuts)


def test_presets_change_sizes_and_say_so() -> None:
    dapo = find("dapo").algorithm()
    found = {path: (before, after) for path, before, after in departures(dapo, "smollm2-135m")}
    assert found == {"update.optimiser.lr": ("1e-06", "2e-05"), "generate.max_new": ("64", "16")}
    assert shortage(dapo) == ["8 minibatches, for 8 prompts are no more"]
    assert shortage(suited(dapo, preset_of(dapo, "tiny", acts=False))) == []
    risky = find("riskpo").algorithm()
    assert shortage(suited(risky, preset_of(risky, "tiny", acts=False))) == [
        "a last bundle of 4 prompts, its scores scaled"
    ]


@pytest.mark.parametrize("name", sorted(methods("tokens")))
def test_no_preset_touches_what_belongs_to_a_method(name: str) -> None:
    for model in ("smollm2-135m", "tiny"):
        paths = {path for path, _, _ in departures(find(name).algorithm(), model)}
        assert paths <= {"update.optimiser.lr", "update.schedule", "generate.max_new", "control.prompts"}


def test_constant_divisors_are_the_generation_budget_unless_said_otherwise() -> None:
    dr_grpo = find("dr-grpo").algorithm()
    made = lambda **changes: fitted(dr_grpo, {path.replace("__", "."): v for path, v in changes.items()}, {})
    assert made(generate__max_new=24).objective.aggregate.length == 24
    assert made(generate__max_new=24, objective__aggregate__length=7).objective.aggregate.length == 7
    assert made().objective.aggregate.length == 64
    inside = {"objective.aggregate": {"part": "constant_length", "length": 64}, "generate.max_new": 24}
    assert fitted(find("grpo").algorithm(), inside, {}).objective.aggregate.length == 64, "64 is not nothing said"
    written = dr_grpo.replace(objective=PolicyGradient(aggregate=ConstantLength(length=64)))
    assert fitted(written, {"generate.max_new": 24}, {}, written).objective.aggregate.length == 64
    open_ = dr_grpo.replace(objective=PolicyGradient(aggregate=ConstantLength()))
    assert fitted(open_, {"generate.max_new": 24}, {}, open_).objective.aggregate.length == 24
    hpt = fitted(find("hpt").algorithm(), {"generate.max_new": 24}, {})
    assert hpt.objective.rollouts.aggregate.length == 24
