"""Recorded data from the command line: offline and mixed runs are scored, resumed, compared and diagnosed as any other."""

from __future__ import annotations

import json
import shlex

import pytest
from killing import killed_run, results
from recording import metadata, record

from anypo.compare.cell import run
from anypo.compare.plan import Budget, Cell, contenders, settings
from anypo.run.disk.folder import RunFolder
from anypo.run.result import Result
from anypo.run.settings.config import RunConfig

TASK = ("--task", "minari:pendulum/random-v0")
SMALL = ("--set", "replay.batch=8", "--set", "policy.hidden=[16,16]", "--set", "credit.hidden=[16,16]")
OFFLINE = ("--system", "td3-bc", *TASK, *SMALL, "--eval-size", "2", "--set", "replay.updates=4")
MIXED = ("--system", "sac", *TASK, *SMALL, "--eval-size", "2", "--set", "generate.steps=8", "--set", "replay.begin=8",
         "--set", "replay.share=0.5", "--set", "generate.act.warmup=4")  # fmt: skip


@pytest.fixture
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    record("pendulum/random-v0")
    return tmp_path / "sets"


def test_an_offline_run_does_all_that_a_run_does(anypo, data, tmp_path):
    done = anypo("train", *OFFLINE, "--steps", "3", "--out", "run", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["after"]["unit"] == "return" and found["last_step"]["replay/size"] == 60
    assert json.loads(anypo("evaluate", "run", "--size", "2", "--json").out)["score"] == found["after"]["score"]
    assert anypo("evaluate", "run", "--size", "2", "--task", "Pendulum-v1").code == 0  # needs no data to act
    again = Result(tmp_path / "run", RunConfig.recorded(RunFolder.read_config(tmp_path / "run")), None, None, {}, 0.0)
    (query,) = (shlex.split(command) for command in again.suggestions() if "rollouts" in command)
    assert "3 rows" in anypo(*query[1:]).out, "what is suggested after a run without rollouts shows something"
    page = (tmp_path / "run/report.html").read_text()
    assert "pendulum/random-v0" in page and "return" in page
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert len(manifest["task"]["source"]["sha256"]) == 64
    assert manifest["supplied"]["problems and answers"].startswith("minari 0.") and manifest["versions"]["minari"]
    for command in (("report", "run"), ("diagnose", "run"), ("rollouts", "run"), ("resume", "run", "--steps", "4")):
        assert anypo(*command).code == 0, command
    again = anypo("train", *OFFLINE, "--steps", "1", "--init", "run", "--out", "next", "--json")
    assert again.code == 0, again.err


def test_a_changed_data_set_is_not_resumed_on(anypo, data, tmp_path):
    assert anypo("train", *OFFLINE, "--steps", "2", "--out", "run").code == 0
    before = (tmp_path / "run/metrics.jsonl").read_text()
    file = metadata(data, "pendulum/random-v0").parent / "main_data.hdf5"
    file.write_bytes(file.read_bytes() + b"\0")
    done = anypo("resume", "run", "--steps", "3")
    assert done.code == 2 and "has changed since the run began" in done.err and done.err.count("\n") <= 2
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


@pytest.mark.parametrize("words", [OFFLINE, MIXED], ids=["offline", "mixed"])
def test_killed_and_resumed_equals_uninterrupted(anypo, data, tmp_path, words):
    words = ("train", *words, "--steps", "12", "--save-every", "2", "--eval-every", "5")
    killed_run(tmp_path / "killed", words, 5)
    assert anypo("resume", "killed").code == 0
    assert anypo(*words, "--out", "whole").code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.parametrize("name", ["td3-bc", "sac"])
def test_such_a_run_is_a_cell_of_a_comparison(data, name):
    task, common = TASK[1], {"replay.batch": 8, "policy.hidden": [16, 16], "credit.hidden": [16, 16]}
    common |= (
        {"replay.updates": 4} if name == "td3-bc" else {"replay.share": 0.5, "generate.steps": 8, "replay.begin": 8}
    )
    (contender,) = contenders([name], "", (), common, [task])
    shared = settings("", [task], Budget("updates", 8), eval_size=2, evaluations=1, samples=1)
    record = run(Cell(contender, task, 0, shared), "")
    assert record["unit"] == "return" and record["spent"]["updates"] >= 8 and record["curve"][-1]["share"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--system", "td3-bc", "--task", "minari:pendulum/randm-v0"), "Did you mean 'pendulum/random-v0'"),
        (("--system", "td3-bc", "--task", "Pendulum-v1"), "name a Minari data set"),
        (("--system", "sac", "--task", "Pendulum-v1", "--set", "replay.share=0.5"), "name a Minari data set"),
        (("--system", "sac", *TASK, "--set", "replay.share=0.001"), "leaves one side without a transition"),
        (("--system", "sac", "--task", "Pendulum-v1", "--set", "policy.normalise=true"), "recorded observations"),
        (("--system", "sac", *TASK, "--set", "replay.share=1"), "should be less than 1"),
        (("--system", "td3-bc", *TASK, "--model", "tiny"), "takes actions, not text"),
        (("--system", "td3-bc", *TASK, "--lora", "4"), "no language model to adapt"),
        (("--system", "td3-bc", *TASK, "--sft-steps", "4"), "no worked solution to imitate"),
        (("--system", "td3-bc", *TASK, "--reward", "majority"), "no answer to vote on"),
        (("--system", "td3-bc", "--task", "./data/noisy"), "there is no task folder './data/noisy'"),
        (("--system", "td3-bc", "--task", "minari:"), "Known: pendulum/random-v0. It is neither in"),
    ],
)
def test_bad_input_is_one_sentence(anypo, data, tmp_path, words, says):
    done = anypo("train", *words)
    assert done.code == 2 and says in done.err and done.err.count("\n") <= 2, done.err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
