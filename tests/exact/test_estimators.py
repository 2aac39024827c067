"""The measured table: its statistics on synthetic gradients, and its agreement with exact expectations."""

from __future__ import annotations

import csv
import itertools
import math

import pytest
import torch

from anypo.exact import truth
from anypo.exact.bench import OLDEST, Setting, pack, scene
from anypo.exact.check import expectation
from anypo.exact.estimators import Estimator, effective_share, measure, summarise, sweep
from anypo.exact.report import save_csv, save_plot
from anypo.systems import find
from anypo.update.pulls import Pull

SMALL = Setting(prompts=1, vocabulary=3, horizon=2, group=2, kind="tabular")


def gaussian(n, mean, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(n, len(mean), generator=generator, dtype=torch.float64)


def test_statistics_recover_what_was_put_in():
    target = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)
    mean = 0.5 * target + torch.eye(12, dtype=torch.float64)[3] * 0.4
    found = [summarise(gaussian(400, mean, 0.7, seed), torch.ones(400), target) for seed in range(40)]
    size = float(target @ target)
    truth = {
        "bias": float((mean - target).norm()) / math.sqrt(size),
        "cosine": float(mean @ target / mean.norm() / target.norm()),
        "scale": float(mean @ target) / size,
        "variance": 12 * 0.49 / size,
        "snr": float(mean @ mean) / (12 * 0.49),
    }
    truth["angle_bias"] = math.sqrt(1 - truth["cosine"] ** 2)
    for name, value in truth.items():
        values = torch.tensor([f[name] for f in found], dtype=torch.float64)
        errors = torch.tensor([f[f"{name}_se"] for f in found], dtype=torch.float64)
        assert abs(float(values.mean()) - value) < 4 * float(values.std()) / math.sqrt(40)
        assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.35)  # jackknife errors are honest


def test_an_unbiased_estimator_shows_no_bias():
    target = torch.ones(12, dtype=torch.float64)
    numbers = summarise(gaussian(400, target, 3.0, 0), torch.ones(400), target)
    assert numbers["bias"] < 2 * numbers["floor"] and numbers["angle_bias"] < 2 * numbers["angle_floor"]
    assert numbers["floor"] == pytest.approx(3.0 / math.sqrt(400), rel=0.1)


def test_dead_batches_and_uphill_shares():
    target = torch.ones(3, dtype=torch.float64)
    gradients = torch.cat([target.repeat(60, 1), -target.repeat(20, 1), 0 * target.repeat(20, 1)])
    numbers = summarise(gradients, torch.full((100,), math.nan), target)
    assert numbers["dead"] == pytest.approx(0.2) and numbers["sign_direction"] == pytest.approx(0.6)
    assert numbers["alignment"] == pytest.approx(0.4) and math.isnan(numbers["ess"])


@pytest.mark.parametrize("name", ["reinforce", "grpo"])
def test_sampled_and_enumerated_means_agree(name):
    algorithm = find(name).algorithm()
    exact, true = expectation(algorithm, SMALL)
    gradients, _ = Estimator(algorithm, scene(SMALL), seed=3).run(600, 0)
    error = gradients.mean(0) - exact
    noise = gradients.var(0).sum() / len(gradients)
    assert float(error @ error) < 2.5 * float(noise)
    assert measure(algorithm, SMALL, 600, warmup=0, seed=3).scale == pytest.approx(
        float(exact @ true / (true @ true)), abs=4 * float((noise / (true @ true)).sqrt())
    )


def test_the_path_moves_by_small_equal_steps_and_truth_stays():
    places = [scene(Setting(staleness=k)) for k in (0, 4, 16, OLDEST)]
    drifts = [place.drift for place in places]
    assert drifts[0] == 0.0 and all(a < b for a, b in itertools.pairwise(drifts))
    assert all(torch.equal(place.gradient, places[0].gradient) for place in places)
    batch = places[2].draw(2, seed=0)
    assert {int(v) for group in batch[0] for t in group.trajectories for v in t.version} == {OLDEST - 16}


def test_effective_share_is_kish():
    place = scene(SMALL)
    batch = Estimator(find("grpo").algorithm(), place, 0).weights.fill(pack(place.draw(1, 0), place.policy()))
    n = len(batch)
    advantage = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    weight = torch.zeros(n, dtype=torch.float64)
    weight[0] = 1.0
    batch = batch.with_rows(advantage=advantage)
    one = Pull(batch, torch.zeros(()), {"logp": -weight * advantage}, 1.0)
    all_ = Pull(batch, torch.zeros(()), {"logp": -3.0 * advantage}, 1.0)
    assert effective_share(one) == pytest.approx(1 / n) and effective_share(all_) == pytest.approx(1.0)


def test_every_reward_and_corruption_can_be_measured():
    for setting in (
        Setting(reward="graded", staleness=4, versions="mixed"),
        Setting(reward="sparse", group=2),
        Setting(staleness=8, versions="partial", noise=0.2, old="trainer"),
    ):
        m = measure(find("grpo").algorithm(), setting, 60, warmup=2)
        assert not m.reason and math.isfinite(m.bias) and math.isfinite(m.snr) and 0 <= m.dead <= 1
    assert measure(find("grpo").algorithm(), Setting(reward="sparse", group=2), 60, warmup=0).dead > 0.3


def test_critics_are_fitted_before_they_are_measured():
    estimator = Estimator(find("ppo").algorithm(), scene(Setting()), 1)
    estimator.run(40, 0)
    critic = next(learner for path, learner in estimator.weights.learners.items() if path != "policy")
    rows = estimator.place.policy().graph.states
    values = critic.inputs[0::rows] @ critic.weight  # the start state of every prompt
    exact = truth.value(estimator.logp, estimator.place.task.reward, estimator.policy.graph)
    assert float((values.detach() - exact).abs().max()) < 0.25 and float(values.detach().std()) > 0.1


def test_what_cannot_be_measured_says_why():
    alone = measure(find("grpo").algorithm(), Setting(prompts=1, group=1), 40, warmup=0)
    assert alone.reason == "no batch gave any gradient on the policy" and math.isnan(alone.bias)
    unfinished = find("grpo").algorithm().set({"update.reference": "none", "credit.shaping": ["reward_kl"]})
    refused = measure(unfinished, SMALL, 40)
    assert "reference" in refused.reason and refused.row()["bias"] is None


def test_csv_and_plot(tmp_path):
    found = list(sweep(["grpo", "reinforce"], [SMALL], 60))
    save_csv(found, tmp_path / "t.csv")
    save_plot(found, tmp_path / "t.html")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [r["system"] for r in rows] == ["grpo", "reinforce"] and float(rows[0]["snr"]) == pytest.approx(found[0].snr)
    page = (tmp_path / "t.html").read_text()
    assert "reinforce" in page and "plotly.js" in page and 'src="http' not in page


def test_batches_without_a_surviving_group_are_skipped_while_warming_up():
    strict = find("grpo").algorithm().set({"filter.survival": [{"part": "drop_degenerate"}]})
    found = measure(strict, Setting(group=2, reward="sparse"), draws=40, warmup=16)
    assert not found.reason and 0.2 < found.dead < 1.0
