"""Recipes from the command line: stages in one run folder, killed in either, and what is refused."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml
from killing import killed_run, results

from anypo.run.settings.config import resolve

SMALL = ("train", "--system", "sft-then-grpo", "--model", "tiny", "--eval-size", "8", "--save-every", "2",
         "--set", "stages.0.algorithm.replay.examples=4", "--set", "stages.1.algorithm.control.prompts=4",
         "--set", "stages.1.algorithm.control.samples=4", "--set", "stages.0.steps=9", "--set", "stages.1.steps=9",
         "--set", "stages.0.until.every=3", "--set", "stages.0.until.value=1.0")  # fmt: skip
"""Two stages of nine steps: no eight answers are all right, so neither ends early."""


@pytest.mark.parametrize("steps", [4, 13], ids=["in the first stage", "in the second stage"])
def test_killed_and_resumed_equals_uninterrupted(anypo, tmp_path, steps):
    killed_run(tmp_path / "killed", SMALL, steps)
    assert anypo("resume", "killed").code == 0
    assert anypo(*SMALL, "--out", "whole").code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_stages_follow_one_another_in_one_folder(anypo, tmp_path):
    changes = ("--set", "stages.0.until=above", "--set", "stages.0.until.metric=update/loss", "--set", "stages.0.until.value=0",
               "--set", "stages.0.until.window=3", "--set", "stages.1.steps=2", "--set", "rounds=2")  # fmt: skip
    done = anypo(*SMALL, *changes, "--out", "run", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    said = [(row["step"], row["stage"], row["round"]) for row in rows]
    once = ["sft", "sft", "sft", "grpo", "grpo"]  # a loss is above 0: the first stage ends as soon as three are known
    assert said == [(step, stage, 1 + (step > 5)) for step, stage in enumerate(once * 2, 1)]
    page = (tmp_path / "run/report.html").read_text()
    assert "until above" in page and "sft <small>" in page and "grpo <small>" in page
    for command in (("diagnose", "run"), ("rollouts", "run"), ("evaluate", "run", "--size", "4")):
        assert anypo(*command).code == 0, command
    staged = anypo("rollouts", "run", "select stage, max(step) as last from metrics group by stage", "--json")
    assert {row["stage"]: row["last"] for row in json.loads(staged.out)} == {"sft": 8, "grpo": 10}


def test_a_recipe_survives_the_way_through_yaml(anypo, tmp_path):
    shown = anypo("systems", "show", "sft-then-grpo", "--yaml")
    (tmp_path / "recipe.yaml").write_text(shown.out)
    read = anypo("train", "--config", "recipe.yaml", "--dry-run", "--json")
    assert read.code == 0, read.err
    assert json.loads(read.out)["recipe"] == yaml.safe_load(shown.out)


def test_a_file_may_name_systems_and_say_what_it_changes(anypo, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "name: mine\nstages:\n- {name: first, algorithm: sft, steps: 5}\n"
        "- {name: second, algorithm: {base: grpo, set: {objective.trust.high: 0.4}}, steps: 5, keeps: [shelf]}\n"
    )
    done = anypo("train", "--config", "recipe.yaml", "--model", "tiny", "--dry-run", "--json")
    assert done.code == 0, done.err
    stages = json.loads(done.out)["recipe"]["stages"]
    assert stages[0]["algorithm"]["update"]["optimiser"]["lr"] == 2e-3  # what the model's preset gives imitation
    assert stages[1]["algorithm"]["objective"]["trust"]["high"] == 0.4
    assert json.loads(done.out)["steps"] == 10 and "algorithm" not in json.loads(done.out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "stages.0.keeps=[polcy]"), "unknown thing to keep 'polcy'. Did you mean 'policy'?"),
        (("--set", "stages.0.keeps=[replay]"), "but stage 'grpo' has on_policy there"),
        (("--set", "stages.0.steps=0"), "'steps' = 0"),
        (("--set", "stages.5.steps=1"), "use an index from 0 to 1"),
        (("--set", "stages.2.name=more"), "stages is a list of 2; use an index from 0 to 1"),
        (("--set", "stages.2=more"), "stages.2 of the recipe is a mapping"),
        (("--set", "objective.trust.high=0.3"), "--set stages.0.algorithm.objective.trust.high"),
        (("--set", "stages.1.task_options={min_terms: 3}"), "has task_options but no task"),
        (
            ("--set", "stages.1.task=chain_sum", "--set", "stages.1.task_options={min_termz: 3}"),
            "stage 'grpo': unknown",
        ),
        (("--set", "stages.0.until=abov"), "Did you mean 'above'?"),
        (("--set", "stages.0.until=plateau", "--set", "stages.1.algorithm=grop"), "Did you mean 'grpo'"),
        (("--set", "stages.1.task=chain_sun"), "Did you mean 'chain_sum'"),
        (("--set", "stages.1.name=sft"), "two stages are called 'sft'"),
        (("--steps", "3"), "--set stages.0.steps=N"),
        (("--eval-size", "0"), "has none"),
        (("--model-as", "teacher=self"), "No stage asks for it"),
        (("--set", "stages.1.algorithm.control.samples=1"), "every advantage would be zero"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(anypo, tmp_path, words, says):
    done = anypo("train", "--system", "sft-then-grpo", "--model", "tiny", *words, "--out", "run")
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("{name: a, algorithm: sft, stepz: 3}", "stages.0 of the recipe: unknown field of stage 'stepz'. Did you mean"),
        ("{name: a, steps: 3}", "stages.0 of the recipe: it has no algorithm"),
        ("{name: a, algorithm: }", "stages.0 of the recipe: it has no algorithm"),
        ("{name: a, algorithm: sftt}", "stages.0 of the recipe: unknown system 'sftt'"),
        ("{name: a, algorithm: {base: sft, set: {control.promts: 1}}}", "stages.0 of the recipe: unknown field"),
        ("{name: a, algorithm: sft, keeps: policy}", "'keeps' = 'policy': Input should be a list"),
        ("{name: a, algorithm: sft}\nround: 2", "unknown field of recipe 'round'. Did you mean 'rounds'?"),
        ("{name: a, algorithm: sft", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_said_in_a_sentence(anypo, tmp_path, stage, says):
    (tmp_path / "recipe.yaml").write_text(f"name: mine\nstages:\n- {stage}\n")
    done = anypo("train", "--config", "recipe.yaml", "--model", "tiny", "--out", "run")
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert not (tmp_path / "run").exists()


def test_the_method_of_a_run_is_trained_again_from_its_folder(anypo, tmp_path):
    """As the commands that diagnosis prints do where no system has the method's name."""
    (tmp_path / "recipe.yaml").write_text(
        "name: mine\nstages:\n- {name: first, algorithm: {base: sft, set: {replay.examples: 4}}, steps: 1}\n"
        "- {name: second, algorithm: {base: grpo, set: {control.prompts: 2, control.samples: 2}}, steps: 3}\n"
    )
    done = anypo("train", "--config", "recipe.yaml", "--model", "tiny", "--eval-size", "0", "--out", "run")
    assert done.code == 0, done.err
    commands = [
        lever["command"]
        for finding in json.loads(anypo("diagnose", "run", "--json").out)
        for lever in finding["levers"]
        if lever["command"].startswith("anypo train")
    ]
    for words in (["anypo", "train", "--config", "run/config.yaml", "-m", "tiny"], *map(shlex.split, commands)):
        again = anypo(*words[1:], "--dry-run", "--json")
        assert again.code == 0, (words, again.err)
        made = json.loads(again.out)["recipe"]
        assert [stage["name"] for stage in made["stages"]] == ["first", "second"]
    assert commands


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("algorithm: ppo, keeps: []", "algorithm: sac", "stage 'b': policy=squashed_gaussian acts with vectors"),
        ("algorithm: ppo, task: Pendulum-v1", "algorithm: ppo", "stage 'a': the policy is made for the observations"),
        ("algorithm: ppo, task: Acrobot-v1", "algorithm: ppo", "stage 'a': the policy is made for the observations"),
    ],
)
def test_a_stage_whose_policy_cannot_act_is_refused_before_the_first_begins(anypo, tmp_path, first, second, says):
    (tmp_path / "recipe.yaml").write_text(f"stages:\n- {{name: a, {first}}}\n- {{name: b, {second}}}\n")
    done = anypo("train", "--config", "recipe.yaml", "--task", "CartPole-v1", "--out", "run")
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_resumed_after_its_last_step_knows_its_last_step(anypo, tmp_path):
    small = (*SMALL, "--set", "stages.0.steps=1", "--set", "stages.1.steps=1", "--json")
    first = json.loads(anypo(*small, "--out", "run").out)["last_step"]
    again = json.loads(anypo("resume", "run", "--json").out)["last_step"]
    assert first["step"] == again["step"] == 2 and again["stage"] == "grpo"


def test_weights_of_a_run_get_no_second_warm_start_unless_it_is_asked_for(anypo):
    said = lambda **given: resolve("grpo", "tiny", **given).sft_steps
    assert (said(), said(init="run"), said(init="run", sft_steps=3)) == (150, 0, 3)
    done = anypo("train", "-m", "tiny", "--init", "run", "--dry-run")
    assert done.code == 2 and "there is no run" in done.err


def test_the_steps_of_a_recipe_are_not_resumes(anypo, tmp_path):
    assert anypo(*SMALL, "--set", "stages.0.steps=1", "--set", "stages.1.steps=1", "--out", "run").code == 0
    done = anypo("resume", "run", "--steps", "9")
    assert done.code == 2 and "steps of their own" in done.err
