"""What the report computes, against other derivations."""

import math

import numpy as np
import pytest
from synthetic_run import configuration, decode, make_run, problem, rollout, step_groups

from anypo.data.records import Group
from anypo.report import composition, sample
from anypo.report.charts import missing, sections
from anypo.report.curves import MOST_POINTS, curves, ends
from anypo.report.headline import duration, gain_interval
from anypo.run.disk.folder import RunFolder
from anypo.scoring import wilson


def test_the_interval_of_the_gain_is_newcombes():
    # Newcombe (1998), Statistics in Medicine 17, table II: 56/70 - 48/80 by method 10 is 0.0524 to 0.3339
    entry = lambda k, n: dict(zip(("score", "low", "high"), (k / n, *wilson(k, n))))
    low, high = gain_interval(entry(48, 80), entry(56, 70))
    assert low == pytest.approx(0.0524, abs=5e-5) and high == pytest.approx(0.3339, abs=5e-5)


# -- curves -------------------------------------------------------------------------------------------------------------------


def test_curves_keep_gaps_and_remember_what_was_not_finite():
    found = curves(
        [{"step": 1, "a": 1.0, "t": "x"}, {"step": 2, "a": math.nan, "b": 2}, {"step": 3, "a": math.inf, "b": True}]
    )
    assert found.steps == [1.0, 2.0, 3.0] and found.done == 3 and found.bin == 1
    assert found.values == {"a": [1.0, None, None], "b": [None, 2.0, None]}
    assert found.broken == {"a": [2, 3]}


def test_long_curves_are_averaged_in_equal_bins():
    n = 2 * MOST_POINTS + 3
    found = curves([{"step": i, "a": float(i), "b": math.nan if i % 2 else 1.0} for i in range(1, n + 1)])
    assert found.bin == 3 and len(found.steps) == math.ceil(n / 3) <= MOST_POINTS and found.done == n
    assert found.steps[:2] == [2.0, 5.0] and found.values["a"] == found.steps
    assert set(found.values["b"]) == {1.0} and len(found.broken["b"]) == (n + 1) // 2
    assert found.steps[-1] == pytest.approx(np.mean(range(n - (n - 1) % 3, n + 1)))


def test_time_that_no_room_accounts_for_is_shown_as_other():
    found = curves(
        [{"step": 1, "time/step": 5.0, "time/generate": 2.0, "time/update": 2.5}, {"step": 2, "time/step": 1.0}]
    )
    assert found.values["time/other"] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ()), ([None, 3.0], (3.0,)), ([1.0, None, 2.0], (1.0, 2.0)), ([float(i) for i in range(40)], (2.0, 37.0))],
)
def test_ends(values, expected):
    assert ends(values) == expected


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7322, "2 h 2 min")])
def test_durations(seconds, text):
    assert duration(seconds).replace("<small>", "").replace("</small>", "") == text


def test_every_metric_is_drawn_exactly_once_and_alarms_only_when_they_ring():
    quiet = curves(
        [{"step": 1, "reward/mean": 1.0, "reward/a": 1.0, "reward/b": 0.0, "odd/one": 2.0, "update/skipped": 0.0}]
    )
    loud = curves([{"step": 1, "update/skipped": 0.5}])

    def drawn(found):
        return sorted(s["name"] for group in sections(found) for chart in group["charts"] for s in chart["series"])

    assert drawn(quiet) == sorted(quiet.values)
    titles = [chart["title"] for group in sections(loud) if not group["folded"] for chart in group["charts"]]
    assert titles == ["Skipped optimiser steps"]
    assert "Entropy" in missing(quiet) and "Skipped optimiser steps" not in missing(quiet)
    assert "Accuracy" in missing(quiet) and "Accuracy" not in missing(quiet, {"accuracy"})


# -- composition --------------------------------------------------------------------------------------------------------------


def marks(config):
    found = composition.difference(config)
    return {
        (path, key): found.mark(path, key) for path, own in found.run.items() for key in own if found.mark(path, key)
    }


def test_what_was_set_for_the_run_is_told_from_what_the_method_changes():
    published = marks(configuration(changes={}))
    assert "own" not in published.values() and published["objective.aggregate", "part"] == "method"
    changed = marks(configuration(changes={"objective.trust.high": 0.28, "update.optimiser.lr": 3e-5}))
    own = {place for place, mark in changed.items() if mark == "own"}
    assert own == {("objective.trust", "high"), ("update.optimiser", "lr")}
    assert {place: mark for place, mark in changed.items() if mark == "method"} == {
        place: mark for place, mark in published.items() if place not in own
    }


def test_inside_a_replaced_part_only_the_part_is_marked():
    changed = marks(configuration(changes={"credit.centre": "leave_one_out"}))
    assert [place for place, mark in changed.items() if mark == "own"] == [("credit.centre", "part")]


def test_a_composition_the_registry_does_not_know_is_drawn_without_marks():
    config = {"system": "mine", "algorithm": {"control": {"part": "<i>odd</i>", "note": "a & b"}}}
    assert marks(config) == {}
    drawn = composition.draw(config)
    assert "&lt;i&gt;odd&lt;/i&gt;" in drawn and "a &amp; b" in drawn and "<i>odd" not in drawn


# -- the sample ---------------------------------------------------------------------------------------------------------------


def test_spaced_items_include_both_ends():
    assert sample.spaced(range(100), 4) == [0, 33, 66, 99] and sample.spaced([1, 2], 9) == [1, 2]


def test_the_sample_holds_whole_groups_most_spread_first(tmp_path):
    run = make_run(tmp_path / "run", steps=20, evaluate=False)
    chosen = sample.rollouts(RunFolder.read(run))
    steps = sorted({r["step"] for r in chosen})
    assert len(steps) == sample.STEPS and steps[0] == 1 and steps[-1] == 20
    for step in steps:
        table = RunFolder.read(run).rollouts(step).to_pylist()
        spread = {g: np.ptp([r["reward"] for r in table if r["group_id"] == g]) for g in range(8)}
        shown = list(dict.fromkeys(r["group"] for r in chosen if r["step"] == step))
        assert shown == sorted(spread, key=lambda g: (-spread[g], g))[: sample.GROUPS]
        assert all(sum(r["group"] == g and r["step"] == step for r in chosen) == 8 for g in shown)
    one = chosen[0]
    assert "".join(one["pieces"]) == one["text"] and len(one["logp"]) == len(one["pieces"]) == one["length"]


def test_the_sample_stays_small_and_cuts_the_middle_of_long_rollouts(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "LONGEST", 8)
    monkeypatch.setattr(sample, "TOKENS", 200)
    run = make_run(tmp_path / "run", steps=3, evaluate=False)
    chosen = sample.rollouts(RunFolder.read(run))
    assert {r["step"] for r in chosen} == {1, 2, 3} and all(len(r["pieces"]) <= 8 for r in chosen)
    assert (
        len({(r["step"], r["group"]) for r in chosen}) == 3
    )  # one group a step is always shown, more only in the budget
    long = next(r for r in chosen if r["length"] > 8)
    assert long["cut"] == [6, long["length"] - 8]
    row = next(
        row
        for row in RunFolder.read(run).rollouts(long["step"]).to_pylist()
        if (row["group_id"], row["sample"]) == (long["group"], long["sample"])
    )
    assert long["pieces"] == row["pieces"][3:9] + row["pieces"][-2:]
    assert long["logp"] == pytest.approx([round(v, 3) for v in row["logp"][:6] + row["logp"][-2:]])


def test_answers_are_paired_and_counted(tmp_path):
    run = RunFolder.read(make_run(tmp_path / "run", steps=2))
    found = sample.answers(run, "before", "after", "correct")
    right = lambda label: [dict(r["rewards"])["correct"] == 1.0 for r in run.answers(label).to_pylist()]
    pairs = list(zip(right("before"), right("after")))
    assert found["counts"] == {
        "fixed": pairs.count((False, True)),
        "broken": pairs.count((True, False)),
        "still wrong": pairs.count((False, False)),
        "still right": pairs.count((True, True)),
    }
    assert found["total"] == 200 == sum(found["counts"].values()) and len(found["rows"]) == 200
    assert sample.answers(run, "before", "never", "correct") is None


def test_several_turns_show_what_the_environment_said(tmp_path):
    from anypo.data.records import ACTION, OBSERVATION, Tokens

    asked = problem(1)
    made = rollout(asked, 1.0, 0, np.random.default_rng(0), 0)
    roles = made.content.roles.copy()
    roles[5:7] = OBSERVATION
    n = int((roles == ACTION).sum())
    turns = made.replace(
        content=Tokens(made.content.tokens, roles), logp=made.logp[:n], version=made.version[:n], entropy=None
    )
    with RunFolder.create(tmp_path / "run", configuration()) as folder:
        folder.write_rollouts(1, [Group(1, (turns,), asked, 1)], None, decode)
        (one,) = sample.rollouts(folder)
    assert one["given"] == [2, 3] and one["logp"][2] is None and one["logp"][4] == round(float(made.logp[2]), 3)
    assert one["entropy"] == [] and one["advantage"] is None


def test_synthetic_groups_have_something_to_learn():
    assert any(np.ptp(g.rewards) > 0 for g in step_groups(5, 0.5))
