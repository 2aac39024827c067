"""Which method when: what a regime changes, what the runs say, and what the map shows of it."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from scipy import stats

from anypo.compare.regimes import REGIMES, Study, chosen, found, study
from anypo.compare.regimes.conditions import bed_of, fitting
from anypo.compare.regimes.page import markdown, ordered, write_page
from anypo.errors import UserError
from anypo.systems import find

FRESH, REUSE = REGIMES["fresh"], REGIMES["reuse"]


def test_a_regime_says_how_often_a_method_updates_whatever_it_would_do_itself() -> None:
    ours = find("gspo").algorithm().set({"update.minibatches_per_epoch": 4})
    assert (FRESH.put(ours).update.epochs, FRESH.put(ours).update.minibatches_per_epoch) == (1, 1)  # type: ignore[attr-defined]
    assert REUSE.put(ours).update.epochs == 8  # type: ignore[attr-defined]
    assert bed_of(REGIMES["stale"], 0.2).lag == 16 and bed_of(REGIMES["small"], 0.2).group == 2
    batch = lambda name: bed_of(REGIMES[name], 0.2).batch * bed_of(REGIMES[name], 0.2).group
    assert {batch(name) for name in REGIMES} == {32}, "as many rollouts a step everywhere"


def test_regimes_are_named() -> None:
    assert chosen("all") == tuple(REGIMES.values()) and chosen("reuse, fresh,reuse") == (REUSE, FRESH)
    with pytest.raises(UserError, match="Did you mean 'stale'"):
        chosen("stael")
    with pytest.raises(UserError, match="one or more of"):
        chosen(" ")


def test_a_method_that_takes_no_gradient_steps_is_not_put_into_a_regime() -> None:
    assert "no gradient steps" in fitting(find("training-free-grpo").algorithm(), [FRESH])["fresh"]
    assert fitting(find("grpo").algorithm(), list(REGIMES.values())) == {}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    module = sys.modules["anypo.compare.regimes.study"]
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "STEPS", 3)
    patch.setattr(module, "TRIALS", 1)
    place = tmp_path_factory.mktemp("study")
    counted: list[tuple[int, int]] = []
    try:
        names = ["grpo", "gspo", "training-free-grpo"]
        made = study(names, [FRESH], place, seeds=2, jobs=1, progress=lambda *at: counted.append(at))
        files = {path.name: path.read_text() for path in place.iterdir()}
        again = study(names, [FRESH], place, seeds=2, jobs=1)
    finally:
        patch.undo()
    return made, again, counted, files


def test_a_study_goes_on_where_it_stopped(small) -> None:
    made, again, counted, files = small
    assert counted[-1] == (8, 8) and len(files) == 8
    assert made.records == again.records and ("training-free-grpo", "fresh") in made.refused


def test_a_clip_that_never_acts_is_the_same_computation(small) -> None:
    map_ = found(small[0], "grpo")
    assert map_.cells["gspo", "fresh"].same == ("grpo",) and "+0.0 =" in markdown(map_)
    assert ("training-free-grpo", "fresh") not in map_.cells and "not here" in markdown(map_)


def records(gains: dict[str, list[float]]) -> Study:
    """A study whose methods lie above a base at 0.5 by these gains; None is a run that was lost."""
    made, count = {}, len(next(iter(gains.values())))
    for method, values in {"base": [0.0] * count, **gains}.items():
        for seed, gain in enumerate(values):
            area = None if gain is None else 0.5 + 0.01 * seed + gain
            made[method, "fresh", seed] = {
                "area": area,
                "final": area,
                "print": f"{area}",
                **({"error": "x"} if gain is None else {}),
            }
    methods = ("base", *gains)
    return Study(methods, ("fresh",), tuple(range(count)), made, {(m, "fresh"): 0.1 for m in methods})


def test_gains_have_student_s_intervals_and_are_certain_only_after_holm() -> None:
    better, maybe = [0.10, 0.11, 0.09, 0.10], [0.03, 0.01, 0.04, 0.02]
    cells = found(records({"better": better, "maybe": maybe}), "base").cells
    cell = cells["better", "fresh"]
    wanted = stats.ttest_1samp(better, 0.0)
    ends = wanted.confidence_interval()
    assert (cell.gain, cell.p) == (pytest.approx(0.1), pytest.approx(wanted.pvalue))
    assert (cell.low, cell.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert cell.certain and cells["maybe", "fresh"].certain
    crowd = {f"other{k}": [0.1 * (-1) ** s for s in range(4)] for k in range(8)}
    cells = found(records({"maybe": maybe, **crowd}), "base").cells
    assert cells["maybe", "fresh"].p < 0.05 and not cells["maybe", "fresh"].certain


def test_lost_runs_earn_nothing_and_equal_runs_are_one_computation() -> None:
    lost = found(records({"weak": [0.1, 0.1, None], "twin": [0.1, 0.1, 0.1], "also": [0.1, 0.1, 0.1]}), "base")  # type: ignore[list-item]
    cell = lost.cells["weak", "fresh"]
    assert cell.lost == 1 and cell.gain == pytest.approx((0.1 + 0.1 - 0.52) / 3) and not cell.same
    assert lost.cells["twin", "fresh"].same == ("also",)
    assert "4 methods are 3 computations" in lost.said["fresh"]
    nothing = found(records({"twin": [0.0, 0.0, 0.0]}), "base")
    assert nothing.said["fresh"].startswith("the choice does not show here") and nothing.cells["twin", "fresh"].p == 1.0
    assert nothing.cells["twin", "fresh"].same == ("base",)


def test_the_page_holds_the_map(tmp_path) -> None:
    map_ = found(records({"<b>better": [0.1, 0.11, 0.1], "worse": [-0.1, -0.11, -0.1]}), "base")
    write_page(map_, tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    assert "<b>better" not in page.split("<tbody>")[1] and "+10.3" in page and 'class="down"' in page
    assert ordered(map_)[0] == "<b>better" and "**+10.3**" in markdown(map_)
    assert json.loads(page.split('id="data">')[1].split("</script>")[0])["base"] == "base"
    assert all(not isinstance(v, float) or math.isfinite(v) for cell in map_.plain()["cells"] for v in cell.values())
    assert np.isfinite([cell.gain for cell in map_.cells.values()]).all()
