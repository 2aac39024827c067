"""A run as a file: what it states wins, all of it fits into one, it goes back in, and what it names is found from anywhere."""

from __future__ import annotations

import json

import pytest
import yaml

import anypo as library
from anypo.compare.plan import contenders
from anypo.errors import Note, UserError
from anypo.run.settings.config import resolve
from anypo.run.settings.written import read
from anypo.systems import find

OWN = {"update.optimiser.lr": 7.7e-5, "generate.max_new": 20, "control.prompts": 5}
QUICK = ("--sft-steps", "0", "--eval-size", "0", "--set", "control.prompts=2", "--set", "control.samples=2",
         "--set", "generate.max_new=2")  # fmt: skip


def _dry(anypo, *words: str) -> dict:
    done = anypo("train", *words, "--dry-run")
    assert done.code == 0, done.err
    return yaml.safe_load(done.out)


def test_an_algorithm_that_is_written_out_keeps_its_numbers(anypo, tmp_path):
    own = find("dapo").algorithm().set(OWN)
    (tmp_path / "dapo2.yaml").write_text(own.yaml())
    assert _dry(anypo, "-m", "tiny", "--config", "dapo2.yaml")["algorithm"] == own.dump()
    assert resolve(own, "tiny").algorithm == own.dump()
    assert resolve(own, "tiny").filled["sft_steps"] == 150  # settings that nobody gave are filled all the same
    (one,) = contenders([str(tmp_path / "dapo2.yaml")], "tiny")
    assert one.algorithm == own.dump()


def test_a_preset_fills_a_named_system_and_the_head_says_what(anypo):
    config = resolve("dapo", "tiny", {"update.optimiser.lr": 1e-4})
    assert config.algorithm["update"]["optimiser"]["lr"] == 1e-4 and "update.optimiser.lr" not in config.filled
    assert config.filled["generate.max_new"] == 8 == config.algorithm["generate"]["max_new"]
    done = anypo("train", "-m", "tiny", "--steps", "1", *QUICK[:4], "--set", "control.prompts=2", "--out", "run")
    (said,) = (line for line in done.out.splitlines() if line.startswith("not stated"))
    assert "generate.max_new=8" in said and "control.prompts" not in said and "steps" not in said.split("save_every")[0]


def test_published_numbers_that_are_written_out_are_said_to_stay(anypo, tmp_path):
    (tmp_path / "grpo.yaml").write_text(anypo("systems", "show", "grpo", "--yaml").out)
    done = anypo("train", "-m", "tiny", "--config", "grpo.yaml", "--dry-run")
    assert "stays as written" in done.out and "update.optimiser.lr=0.0003" in done.out
    assert "stays as written" not in anypo("train", "-m", "tiny", "--dry-run").out


@pytest.mark.parametrize(
    "text",
    [
        "base: grpo\nset: {lr: 5e-5, objective.trust: soft_clip, objective.trust.high: 0.4}",
        "system: grpo\nset: {update.optimiser.lr: 5e-5, objective.trust: {part: soft_clip, high: 0.4}}",
        "algorithm: {base: grpo, set: {lr: 5e-5, objective.trust: {part: soft_clip, high: 0.4}}}",
    ],
)
def test_a_delta_wins_and_its_base_is_fitted(anypo, tmp_path, text):
    (tmp_path / "run.yaml").write_text(f"model: tiny\n{text}\n")
    found = _dry(anypo, "run.yaml")["algorithm"]
    assert found["update"]["optimiser"]["lr"] == 5e-5 and found["generate"]["max_new"] == 8
    assert found["objective"]["trust"] == {**found["objective"]["trust"], "part": "soft_clip", "high": 0.4}
    (one,) = contenders([str(tmp_path / "run.yaml")], "tiny")
    assert one.algorithm == found


def test_a_whole_run_in_a_file_and_its_dry_run_and_config_go_back_in(anypo, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: tiny\ntask: chain_sum\ntask_options: {min_terms: 2, max_terms: 2}\nbase: rloo\nset: {samples: 2, max_new: 2}\n"
        "steps: 1\nseed: 3\ndevice: cpu\nsft_steps: 0\neval_size: 0\nloggers: tensorboard\nout: here\n"
    )
    dry = anypo("train", "run.yaml", "--dry-run")
    (tmp_path / "dry.yaml").write_text(dry.out)
    assert yaml.safe_load(anypo("train", "dry.yaml", "--dry-run").out) == yaml.safe_load(dry.out)
    assert json.loads(anypo("train", "run.yaml", "--dry-run", "--json").out)["seed"] == 3
    assert anypo("train", "run.yaml", "--set", "control.prompts=2").code == 0
    first = yaml.safe_load((tmp_path / "here/config.yaml").read_text())
    for again in (("here/config.yaml",), ("here",), ("--config", "here/config.yaml")):
        plain = _dry(anypo, *again)
        assert plain == {key: value for key, value in first.items() if key != "filled"}
    assert anypo("train", "here", "--out", "again").code == 0
    metrics = [json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("here", "again")]
    assert metrics[0]["update/loss"] == metrics[1]["update/loss"] and metrics[0]["seed" if 0 else "step"] == 1


def test_a_recipes_config_goes_back_in(anypo, tmp_path):
    (tmp_path / "r.yaml").write_text(anypo("train", "-m", "tiny", "-s", "sft-then-grpo", "--dry-run").out)
    again = _dry(anypo, "r.yaml")
    assert again["recipe"] == yaml.safe_load((tmp_path / "r.yaml").read_text())["recipe"]


def test_the_command_line_comes_before_the_file_and_says_so(anypo, tmp_path):
    (tmp_path / "run.yaml").write_text("model: tiny\nsystem: dapo\nsteps: 7\nset: {generate.max_new: 3}\n")
    done = anypo("train", "run.yaml", "-s", "grpo", "--steps", "4", "--set", "generate.max_new=5", "--dry-run")
    found = yaml.safe_load(done.out)
    assert (found["system"], found["steps"], found["algorithm"]["generate"]["max_new"]) == ("grpo", 4, 5)
    assert "system=grpo (dapo), steps=4 (7), generate.max_new=5 (3)" in done.err


def test_of_options_that_differ_only_those_are_said(tmp_path):
    (tmp_path / "run.yaml").write_text("task: chain_sum\ntask_options: {min_terms: 2, max_terms: 3}\nmodel: tiny")
    said: list[str] = []
    read(tmp_path / "run.yaml").resolve(None, None, None, said.append, task_options={"max_terms": 4})
    assert len(said) == 1 and said[0].endswith("in brackets: task_options.max_terms=4 (3)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: tiny\nstep: 3", "Did you mean 'steps'"),
        ("model: tiny\nsystem: grpoo", "unknown system 'grpoo'"),
        ("system: grpo\nalgorithm: dapo", "two methods"),
        ("model: tiny\nset: [1]", "set is a mapping"),
        ("model: tiny\nsteps: many", "field 'steps' = 'many'"),
        ("[1, 2]", "is no run file"),
        ("base: {a: 1}", "name of a system"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence(anypo, tmp_path, text, said):
    (tmp_path / "run.yaml").write_text(text)
    done = anypo("train", "run.yaml", "--dry-run")
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [
        "-t chain_sums",
        "-t nope.jsonl",
        "--task-set min_term=3",
        "-m nope/nope",
        "-m ./nope",
        "-m nope",
        "--logger foo",
        "-m .",
    ],
)
def test_a_dry_run_refuses_what_the_run_would(anypo, words):
    done = anypo("train", *(["-m", "tiny"] if "-m" not in words else []), *words.split(), "--dry-run")
    assert done.code == 2 and len(done.err) < 500


def test_the_end_of_a_path_is_taken_where_there_is_one(anypo):
    with pytest.warns(Note, match=r"max_new is generate.max_new"):
        config = resolve("grpo", "tiny", {"max_new": 7, "trust.high": 0.5})
    assert config.algorithm["generate"]["max_new"] == 7 and config.algorithm["objective"]["trust"]["high"] == 0.5
    with pytest.raises(UserError, match=r"could be credit.optimiser.lr, update.optimiser.lr"):
        resolve("ppo", "tiny", {"lr": 1e-3})
    with pytest.raises(UserError, match=r"Did you mean 'objective.trust.high'"):
        resolve("grpo", "tiny", {"objctive.trust.high": 1e-3})
    with pytest.warns(Note):
        config = resolve("grpo", "tiny", {"objective.trust": "soft_clip", "trust.high": 0.4})
    assert config.algorithm["objective"]["trust"]["high"] == 0.4


def test_paths_are_found_again_from_elsewhere(anypo, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/q.jsonl").write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(40)))
    (tmp_path / "run.yaml").write_text("model: tiny\ntask: data/q.jsonl\nsteps: 1\n")
    assert anypo("train", "run.yaml", *QUICK, "--out", "run", "--save-every", "1").code == 0
    monkeypatch.chdir("/")
    assert anypo("resume", str(tmp_path / "run"), "--steps", "2").code == 0
    assert read(tmp_path / "run.yaml").settings["task"] == str(tmp_path / "data/q.jsonl")
    assert anypo("evaluate", str(tmp_path / "run"), "--size", "2").code == 0


def test_a_runs_model_is_a_model(anypo, tmp_path):
    assert anypo("train", "-m", "tiny", "--steps", "1", *QUICK, "--out", "run").code == 0
    assert _dry(anypo, "-m", "run")["model"] == str(tmp_path / "run/model")


def test_python_reads_the_file_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "model: tiny\nset: {prompts: 2, samples: 2, max_new: 2}\nsft_steps: 0\neval_size: 0\nsteps: 5\n"
    )
    result = library.train("run.yaml", steps=1, out="run")
    assert result.config.steps == 1 and result.config.algorithm["generate"]["max_new"] == 2


def test_the_newest_run_is_called_last_wherever_a_run_is_named(anypo, tmp_path):
    assert "so none is the last" in anypo("rollouts", "runs/LAST").err
    for name in ("old", "new"):
        assert anypo("train", "-m", "tiny", "--steps", "1", *QUICK, "--out", f"runs/{name}").code == 0
    (tmp_path / "runs/old/x").write_text("written later")
    assert "runs/new" in anypo("resume", "runs/LAST", "--steps", "2").out
    for words in (("rollouts", "runs/LAST"), ("report", "runs/LAST"), ("diagnose", "runs/LAST")):
        assert anypo(*words).code == 0, words
    assert _dry(anypo, "-m", "tiny", "--init", "runs/LAST")["init"] == str(tmp_path / "runs/new")


def test_a_run_that_is_resumed_further_counts_to_its_new_end(anypo, tmp_path):
    assert anypo("train", "-m", "tiny", "--steps", "2", *QUICK, "--out", "run").code == 0
    assert anypo("resume", "run", "--steps", "4").code == 0
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["steps"] == 4
    assert "4 steps" in (tmp_path / "run/report.html").read_text()
    assert anypo("resume", "run").code == 0


def test_piped_progress_says_of_how_many_and_how_long(anypo):
    lines = anypo("train", "-m", "tiny", "--steps", "3", *QUICK, "--out", "run").out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert "of 3" in steps[0] and "ETA" in steps[1] and "ETA" not in steps[2]


def test_the_newest_steps_are_shown_first(anypo):
    anypo("train", "-m", "tiny", "--steps", "3", *QUICK, "--out", "run")
    rows = json.loads(anypo("rollouts", "run", "--json").out)
    assert [row["step"] for row in rows] == [3, 2, 1]


def test_colleagues_can_read_what_a_run_leaves(anypo, tmp_path):
    anypo("train", "-m", "tiny", "--steps", "1", *QUICK, "--out", "run")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "run").rglob("*.safetensors")}
    assert modes and {oct(mode) for mode in modes.values()} == {
        oct((tmp_path / "run/config.yaml").stat().st_mode & 0o777)
    }


def test_adapters_have_their_fields(anypo, tmp_path):
    lora = "{rank: 4, alpha: 7, targets: [q_proj, v_proj]}"
    done = anypo("train", "-m", "tiny", "--steps", "1", *QUICK, "--lora", lora, "--out", "run")
    assert done.code == 0, done.err
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["lora"] == yaml.safe_load(lora)
    assert anypo("evaluate", "run", "--size", "2").code == 0
    assert anypo("resume", "run", "--steps", "2").code == 0
    for wrong, said in (
        ("-1", "rank of 1"),
        ("{rank: 4, alfa: 2}", "Did you mean 'alpha'"),
        ("{dropout: 0.1}", "dropout is off"),
    ):
        refused = anypo("train", "-m", "tiny", f"--lora={wrong}", "--dry-run")
        assert refused.code == 2 and said in refused.err


def test_the_best_weights_and_more_checkpoints_are_kept_when_asked_for(anypo, tmp_path):
    words = ("--steps", "3", *QUICK[:2], *QUICK[4:], "--eval-size", "4", "--save-every", "1", "--keep", "4")
    assert "how often" in anypo("train", "-m", "tiny", *words, "--keep-best", "--dry-run").err
    assert anypo("train", "-m", "tiny", *words, "--eval-every", "1", "--keep-best", "--out", "run").code == 0
    assert (tmp_path / "run/best/model.safetensors").is_file()
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 4
    assert anypo("evaluate", "run/best", "--task", "chain_sum", "--size", "2").code == 0
    done = anypo("train", "-m", "tiny", "--steps", "2", *QUICK, "--save-minutes", "0.000001", "--save-every", "99", "--keep", "9",
                 "--out", "often")  # fmt: skip
    assert done.code == 0 and len(list((tmp_path / "often/checkpoints").glob("step-*"))) == 3
