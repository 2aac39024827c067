"""Detectors: each sees its planted pathology, keeps quiet on healthy runs, and says when it cannot know."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from anypo.cli.options import assignments
from anypo.diagnose import DETECTORS, Evidence, examine
from anypo.diagnose import observables as see
from anypo.diagnose.detector import Limit, finding
from anypo.diagnose.evidence import Series
from anypo.diagnose.levers import applicable, command
from anypo.run.settings.config import resolve
from anypo.run.settings.methods import budgets
from anypo.systems import SYSTEMS, methods
from benchmarks.planted import HEALTHY, PLANTED, run

SEED = 50
"""Neither a seed on which thresholds were chosen nor one of the reported table."""

TRIED = {case.name: case for case in PLANTED}


def row(**fields):
    base = {
        "step": 1, "group_id": 0, "prompt": 0, "sample": 0, "problem": "", "answer": "", "text": "", "reward": 0.0, "rewards": {},
        "advantage": None, "trained": True, "length": 1, "finish": "stop", "failed": "", "guidance": "", "tokens": None,
        "roles": None, "advantages": None,
    }  # fmt: skip
    return base | fields


@pytest.mark.parametrize(
    "name",
    [
        "reward too sparse to be met", "task too easy", "learning rate far too high", "length limit too small",
        "a hole in the verifier", "verdicts flip", "verifier times out", "reward is a coin", "clip range far too small",
        "sampler 20 steps behind", "noise in the sampler", "three prompts of 48", "infinite rewards", "heavy-tailed lengths",
        "sampling slows down", "memory leaks",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_planted_pathology_is_found(name):
    found = {one.detector.name: one for one in examine(run(TRIED[name], SEED))}
    for planted in TRIED[name].planted:
        assert found[planted].severity in ("warning", "severe"), found[planted].evidence


@pytest.mark.parametrize("case", HEALTHY[:4], ids=lambda case: case.name)
def test_healthy_runs_raise_no_severe_alarm(case):
    assert [one.detector.name for one in examine(run(case, SEED)) if one.severity == "severe"] == []


def test_every_detector_has_a_planted_run():
    assert {name for case in PLANTED for name in case.planted} == set(DETECTORS)


def test_without_data_nothing_is_called_healthy():
    assert {one.severity for one in examine(Evidence())} == {"not measured"}


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_thresholds_are_ordered_and_explained(name):
    entry = DETECTORS[name]
    assert entry.limit.warning < entry.limit.severe and len(entry.why) > 40 and entry.levers


def test_grades():
    limit = Limit(1.0, 2.0)
    assert [limit.grade(score) for score in (0.99, 1.0, 1.99, 2.0)] == ["healthy", "warning", "warning", "severe"]


# -- levers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", sorted(methods()))
def test_every_lever_resolves_on_every_system(system):
    algorithm = SYSTEMS[system].algorithm()
    for entry in DETECTORS.values():
        for lever in entry.levers:
            changes = applicable(lever, algorithm)
            if changes:
                assert algorithm.set(changes).check() != algorithm


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_has_something_to_do_about_grpo(name):
    entry = DETECTORS[name]
    algorithm = SYSTEMS["grpo"].algorithm()
    assert any(lever.shell or applicable(lever, algorithm) for lever in entry.levers)


@pytest.mark.parametrize("system", ["grpo", "dapo", "ppo", "gspo"])
def test_a_pasted_command_gives_the_runs_composition_with_the_lever(system):
    own = {"update.optimiser.lr": 1e-4, "control.samples": 6}
    config = resolve(system, "tiny", own, task="chain_sum", steps=77, seed=5)
    evidence = Evidence(algorithm=config.composition(), config=config.model_dump(mode="json"))
    for entry in DETECTORS.values():
        for lever in entry.levers:
            changes = applicable(lever, evidence.algorithm)
            if changes:
                meant = evidence.algorithm.set(changes)
                meant = meant.set(budgets(meant, changes))
                assert pasted(command(evidence, changes)).composition() == meant


def pasted(text: str):
    """What `anypo train` would make of the words of a command."""
    words, options = shlex.split(text), {"--set": [], "--task-set": []}
    assert words[:2] == ["anypo", "train"]
    for flag, given in zip(words[2::2], words[3::2], strict=True):
        if flag in ("--set", "--task-set"):
            options[flag].append(given)
        else:
            options[flag] = given
    settings = {key: int(options[f"--{key}"]) for key in ("steps", "seed") if f"--{key}" in options}
    config = resolve(
        options["-s"], options["-m"], assignments(options["--set"], "--set"), task=options["-t"], **settings
    )
    assert (config.steps, config.seed) == (77, 5)
    return config


# -- observables against independent numbers ---------------------------------------------------------------------------------


def test_sign_flips_of_normal_rewards_follow_the_arctangent():
    random = np.random.default_rng(1)
    for size, most_below in ((4, 0.25), (16, 0.07), (64, 0.04)):
        found = [[row(reward=r) for r in random.normal(size=size)] for _ in range(16000 // size)]
        exact = np.arctan(1 / np.sqrt(size - 1)) / np.pi  # P(sign(r - m) != sign(r - mu))
        assert exact * (1 - most_below) < see.sign_flips(found, -9.0, 9.0) < exact * 1.03


def test_binary_rewards_cannot_flip():
    assert see.sign_flips([[row(reward=r) for r in (0.0, 1.0, 1.0)]], 0.0, 1.0) == 0.0


def test_conflict_is_none_where_decisions_agree_and_one_where_they_do_not():
    def group(advantages):
        texts = [(1, 2), (1, 3), (4, 2), (4, 3)]
        return [row(tokens=t, roles=(1, 1), advantage=a) for t, a in zip(texts, advantages)]

    agree, _ = see.conflict([group((1.0, 1.0, -1.0, -1.0))])
    against, decisions = see.conflict([group((1.0, -1.0, 1.0, -1.0))])
    assert agree == 0.0 and against > 1.0 and decisions == 2


def test_starvation_of_uniform_draws_is_zero():
    random = np.random.default_rng(0)
    draws = [random.integers(0, 50, 60).tolist() for _ in range(200)]
    assert np.mean([see.starvation(d, 50) for d in draws]) == pytest.approx(0.0, abs=0.01)
    assert see.starvation([1] * 60, 50) > 0.95


def test_rise_and_its_error():
    random = np.random.default_rng(0)
    flat = [see.rise(Series(np.arange(90.0), random.normal(size=90))) for _ in range(300)]
    z = np.array([gain / error for gain, error in flat])
    assert abs(z.mean()) < 0.2 and z.std() == pytest.approx(1.0, abs=0.15)


def test_a_disagreement_is_only_counted_for_the_same_answer_and_end():
    rows = [
        row(text="4", reward=1.0),
        row(text="4", reward=0.0),
        row(text="4", reward=0.0, finish="length"),
        row(text="5"),
    ]
    share, repeats, _ = see.disagreements(rows, lambda r: r["reward"])
    assert (share, repeats) == (1.0, 1)


def test_a_solved_task_excuses_entropy():
    steps = range(1, 31)
    metrics = [
        {"step": s, "policy/entropy": 1.5 * 0.7**s, "accuracy/train": a} for s in steps for a in [min(1.0, s / 10)]
    ]
    solved = finding(DETECTORS["entropy_collapse"], Evidence(metrics))
    stuck = finding(DETECTORS["entropy_collapse"], Evidence([m | {"accuracy/train": 0.3} for m in metrics]))
    assert solved.severity == "healthy" and "solved" in solved.evidence and stuck.severity == "severe"


def test_held_out_that_falls_while_the_reward_rises():
    metrics = [{"step": s, "reward/mean": s / 30} for s in range(1, 31)]
    held = [
        {"score": a, "unit": "accuracy", "low": a - 0.06, "high": a + 0.06, "n": 200, "label": str(i), "step": i}
        for i, a in enumerate((0.5, 0.3))
    ]
    falling = finding(DETECTORS["reward_hacking"], Evidence(metrics, evaluations=held))
    rising = finding(DETECTORS["reward_hacking"], Evidence(metrics, evaluations=held[::-1]))
    assert falling.severity == "severe" and falling.score > rising.score


def test_nan_scores_are_not_measured():
    broken = dataclasses.replace(DETECTORS["truncation"], look=lambda run: see_nan())
    assert finding(broken, Evidence()).severity == "not measured"


def see_nan():
    from anypo.diagnose.detector import Measured

    return Measured(float("nan"), "")


def test_an_algorithm_of_another_version_still_gets_findings():
    found = examine(Evidence(metrics=[{"step": s, "rollout/failed": 0.5} for s in range(1, 5)], algorithm=None))
    assert found[0].detector.name == "verifier_errors" and all("train" not in text for _, text in found[0].levers)


def test_the_index_of_pathologies_names_detectors_that_there_are_and_all_of_them():
    page = (Path(__file__).parents[2] / "docs/diagnose.md").read_text()
    index = page[page.index("| | pathology |") : page.index("## Attribution")]
    rows = [line.split("|")[1].strip() for line in index.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows[1:] == [str(n) for n in range(1, 21)]
    named = set(re.findall(r"`([a-z_]+)`", index))
    assert set(DETECTORS) <= named
    assert named - set(DETECTORS) == set()
