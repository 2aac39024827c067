"""Any policy, from the command line: environments are trained in, scored, resumed, compared and diagnosed as texts are."""

from __future__ import annotations

import json

import pytest
from killing import killed_run, results

PPO = ("--system", "ppo", "--task", "CartPole-v1", "--set", "generate.steps=32", "--set", "update.epochs=2",
       "--set", "update.minibatches_per_epoch=4", "--eval-size", "3")  # fmt: skip
SAC = ("--system", "sac", "--task", "Pendulum-v1", "--set", "generate.steps=16", "--set", "replay.begin=16",
       "--set", "replay.batch=8", "--set", "generate.act.warmup=8", "--eval-size", "2")  # fmt: skip

CHAIN = ("train", "--system", "ppo", "--set", "policy=chain")


def test_a_run_in_an_environment_does_all_that_a_run_does(anypo, tmp_path):
    done = anypo("train", *PPO, "--steps", "4", "--out", "run", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["after"]["unit"] == "return" and found["after"]["n"] == 3 and found["last_step"]["episode/return"] > 5
    scored = anypo("evaluate", "run", "--size", "3", "--json")
    assert json.loads(scored.out)["score"] == found["after"]["score"]  # the same weights, episodes and act
    page = (tmp_path / "run/report.html").read_text()
    assert "return" in page and "CartPole-v1" in page and "What acts" in page
    looked = anypo("diagnose", "run", "--json")
    assert looked.code == 0 and not [f for f in json.loads(looked.out) if f["pathology"] == "truncation" and f["score"]]
    assert anypo("rollouts", "run", "select step, reward, length from rollouts").code == 0
    assert anypo("resume", "run", "--steps", "5").code == 0
    again = anypo("train", *PPO, "--steps", "1", "--init", "run", "--out", "next", "--json")
    assert again.code == 0 and json.loads(again.out)["before"]["score"] > 0


@pytest.mark.parametrize("words", [PPO, SAC], ids=["ppo", "sac"])
def test_killed_and_resumed_equals_uninterrupted(anypo, tmp_path, words):
    words = ("train", *words, "--steps", "14", "--save-every", "2", "--eval-every", "5")
    killed_run(tmp_path / "killed", words, 5)
    assert anypo("resume", "killed").code == 0
    assert anypo(*words, "--out", "whole").code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_methods_are_compared_in_an_environment(anypo):
    words = ("--budget", "tokens=300", "--seeds", "1", "--eval-size", "2", "--jobs", "1", "--out", "both", "--json")
    done = anypo(
        "compare", "ppo,mdpo", "--task", "CartPole-v1", "--set", "generate.steps=32", "--set", "update.epochs=1", *words
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--task", "CartPole-v7"), "unknown environment 'CartPole-v7'"),
        (("train", "--task", "CratPole-v1"), "Did you mean 'CartPole-v1'"),
        (("train", "--task", "CartPole-v1", "--model", "tiny"), "takes actions, not text"),
        (("train", "--system", "nudgerl", "--task", "Pendulum-v1"), "view (plain) cannot work on task 'Pendulum-v1'"),
        (("train", "--system", "sac", "--task", "CartPole-v1"), "acts with vectors in finite bounds"),
        (("train", "--system", "sac", "--model", "tiny"), "cannot work on task"),
        (("train", "--system", "sac", "--task", "Pendulum-v1", "--set", "replay=on_policy"), "needs 'transitions'"),
        ((*CHAIN, "--task", "CartPole-v1"), "policy=chain acts with vectors in finite bounds"),
        ((*CHAIN, "--task", "Pendulum-v1", "--set", "policy.inner=0"), "'inner' = 0"),
        (
            (*CHAIN, "--task", "Pendulum-v1", "--set", "generate.act.warmup=8"),
            "no chain that leads to a uniformly random action",
        ),
        (
            (*CHAIN, "--task", "Pendulum-v1", "--set", "credit.unit=decision", "--set", "credit.inner=0.9"),
            "set unit=turn",
        ),
        (("train", "--system", "ppo", "--task", "CartPole-v1", "--eval-size", "1"), "at least 2 episodes"),
        (("compare", "ppo,mdpo", "--task", "CartPole-v1,chain_sum"), "texts or of environments"),
    ],
)
def test_bad_input_is_one_sentence(anypo, tmp_path, words, says):
    done = anypo(*words)
    assert done.code == 2 and says in done.err and done.err.count("\n") <= 2, done.err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
