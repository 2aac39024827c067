"""How long a run is: passes over the data, budgets, and what ends it early; the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import anypo
from anypo.budget import Budget, planned
from anypo.errors import Interrupted, UserError
from anypo.recipes import Above, Plateau, Stop
from anypo.run.disk.folder import RunFolder
from anypo.run.session import Session
from anypo.run.settings.config import resolve
from anypo.run.settings.rehearsal import rehearse
from anypo.run.settings.written import read
from anypo.run.stages import Stages

SMALL = {"control.prompts": 4, "control.samples": 2, "generate.max_new": 3}
PLAIN = {"sft_steps": 0, "eval_size": 0, "set": SMALL, "save_every": 1, "beside": False}


@pytest.fixture
def rows(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    problems = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(3) for b in range(3)]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return "own.jsonl"


def stop_at(step: int):
    """A callback that interrupts the run after a step, as Ctrl-C would."""

    def act(moment):
        if moment.step == step:
            raise KeyboardInterrupt

    return act


def test_steps_follow_from_passes_over_the_data(rows) -> None:
    config = resolve("grpo", "tiny", SMALL, task=rows, task_options={"heldout": 0}, epochs=2)
    stages = Stages(config)
    assert stages.config.steps == 5, "18 visits, 4 in a step"
    assert stages.legs[0].stage.steps == 5
    assert "2 passes over 9 problems, 4 in a step: 5 steps" in rehearse(config)
    supervised = resolve("sft", "tiny", task=rows, task_options={"heldout": 0, "solution": "answer"}, epochs=3)
    assert Stages(supervised.model_copy()).config.steps == 1, "27 examples, 64 in a step"


@pytest.mark.parametrize("task", ["chain_sum", "CartPole-v1"])
def test_what_has_no_end_cannot_be_passed(task) -> None:
    model = "tiny" if task == "chain_sum" else None
    with pytest.raises(UserError, match=r"has no end that could be passed 2 times.*--budget tokens=1M"):
        Stages(resolve("grpo", model, task=task, epochs=2))
    if model:
        found = Stages(resolve("grpo", model, SMALL, task=task, task_options={"size": 10}, epochs=2))
        assert found.config.steps == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 3, "epochs": 2}, "is said once, not by steps and epochs"),
        ({"budget": "tokens=1k", "epochs": 2}, "is said once, not by epochs and budget"),
        ({"budget": "token=3"}, "unknown budget 'token'. Did you mean 'tokens'"),
        ({"epochs": -1.0}, "field 'epochs' = -1"),
        ({"until": "score>0.9"}, "a bound is written score>=0.9"),
        ({"until": "plato"}, "unknown stop part 'plato'. Did you mean 'plateau'"),
        ({"until": "score>=high"}, "'high'"),
    ],
)
def test_bad_lengths_are_refused_in_a_sentence(settings, said) -> None:
    with pytest.raises(UserError, match=said):
        resolve("grpo", "tiny", **settings)


@pytest.mark.parametrize("given", [{"epochs": 1}, {"budget": "updates=3"}, {"until": "score>=0.9"}])
def test_a_recipe_has_lengths_of_its_own(given) -> None:
    with pytest.raises(UserError, match="stages of a recipe"):
        resolve("sft-then-grpo", "tiny", **given)


def test_a_run_file_says_it_and_another_length_replaces_it(rows) -> None:
    Path("run.yaml").write_text("model: tiny\nbase: grpo\nbudget: minutes=2\nuntil: score>=0.9\n")
    written = read(Path("run.yaml"))
    assert written.resolve().budget == "seconds=120" and written.resolve().until == Above(
        metric="heldout/score", value=0.9
    )
    said: list[str] = []
    other = written.resolve(say=said.append, steps=7)
    assert (other.budget, other.steps) == ("", 7) and "steps=7 (budget=minutes=2)" in said[0]
    Path("two.yaml").write_text("model: tiny\nbase: grpo\nbudget: minutes=2\nsteps: 3\n")
    with pytest.raises(UserError, match=r"two\.yaml: the length of a run is said once"):
        read(Path("two.yaml"))


def test_the_plan_of_a_budget() -> None:
    rollouts = resolve("grpo", "tiny", SMALL, budget="rollouts=20")
    assert rollouts.steps == 3 and "steps" not in rollouts.filled
    assert resolve("grpo", "tiny", SMALL, budget="tokens=240").steps == 10
    assert [planned(4, share) for share in (0.0, 0.39, 0.5, 1.0, 1.7)] == [5, 10, 8, 4, 4]
    assert Budget.parse("rollouts=10").share([{"rollout/count": 4.0}, {}]) == 0.4


def test_a_run_stops_where_its_budget_is_spent_and_a_resumed_one_too(rows) -> None:
    whole = anypo.train("grpo", "tiny", rows, budget="rollouts=20", out="whole", **PLAIN)
    spent = [row["rollout/count"] for row in RunFolder(Path("whole")).metrics()]
    assert spent == [8.0, 8.0, 8.0], "the first step at or beyond it is the last"
    assert RunFolder.read_config(Path("whole"))["steps"] == 3 and whole.config.budget == "rollouts=20"
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        anypo.train("grpo", "tiny", rows, budget="rollouts=20", out="cut", callbacks=[stop_at(2)], **PLAIN)
    anypo.resume("cut")
    same = lambda folder: [
        {k: v for k, v in row.items() if not k.startswith(("time/", "memory/")) and "per_second" not in k}
        for row in RunFolder(Path(folder)).metrics()
    ]
    assert same("cut") == same("whole")
    anypo.resume("whole", budget="rollouts=28")
    assert len(same("whole")) == 4
    assert yaml.safe_load(Path("whole/config.yaml").read_text())["budget"] == "rollouts=28"
    again = read(Path("whole")).resolve()
    assert again.budget == "rollouts=28" and again.steps == 4, "its configuration goes back in"


def test_schedules_know_the_length_that_a_budget_leaves(rows) -> None:
    schedule = {"update.schedule": "linear", "lr": 3e-3}
    anypo.train("grpo", "tiny", rows, budget="rollouts=24", out="run", **(PLAIN | {"set": SMALL | schedule}))
    rates = [row["update/lr"] for row in RunFolder(Path("run")).metrics()]
    assert rates == pytest.approx([3e-3, 2e-3, 1e-3])


def test_a_budget_that_is_never_spent_ends_in_a_sentence(rows, monkeypatch) -> None:
    monkeypatch.setattr("anypo.run.stages.PATIENCE", 3)
    options = {"heldout": 0, "solution": "answer"}
    with pytest.raises(UserError, match=r"the last 3 steps spent nothing of the budget \(tokens=1k\)"):
        settings = {"task_options": options, "set": {"replay.examples": 2}, "beside": False, "eval_size": 0}
        anypo.train("sft", "tiny", rows, budget="tokens=1k", out="run", **settings)


def test_a_bound_ends_the_run_early(rows, monkeypatch) -> None:
    settings, made = PLAIN | {"eval_size": 1, "eval_every": 2}, Session._score
    scored: list[str] = []
    monkeypatch.setattr(Session, "_score", lambda self, label: scored.append(label) or made(self, label))
    anypo.train("grpo", "tiny", rows, steps=9, until="score>=0", out="run", **settings)
    assert scored == ["before", "step 2"]  # what ended the run is its last score, too
    last, after = RunFolder(Path("run")).evaluations()[-2:]
    assert last["label"] == "step 2" and after == last | {"label": "after"}
    metrics = RunFolder(Path("run")).metrics()
    assert len(metrics) == 2 and metrics[-1]["heldout/score"] >= 0 and "heldout/score" not in metrics[0]
    assert "2 steps" in Path("run/report.html").read_text() and "of 9 steps" not in Path("run/report.html").read_text()
    patient = {"part": "plateau", "metric": "rollout/length", "window": 1, "least": 1e9}
    anypo.train("grpo", "tiny", rows, steps=9, until=patient, out="flat", **PLAIN)
    assert len(RunFolder(Path("flat")).metrics()) == 2
    with pytest.raises(UserError, match="an evaluation of no problems"):
        anypo.train("grpo", "tiny", rows, until="score>=0.5", out="none", **PLAIN)


def test_bounds_are_stops_wherever_one_is_named() -> None:
    assert (
        Stop.parse(" policy/entropy <= 0.1").dump()
        == {"part": "below"} | Stop.parse({"part": "below", "metric": "policy/entropy", "value": 0.1}).dump()
    )
    assert Stop.parse("plateau") == Plateau()
    recipe = {"stages": [{"name": "one", "algorithm": "grpo", "until": "score>=0.8", "steps": 3}]}
    assert resolve(recipe, "tiny").plan().stages[0].until == Above(value=0.8)  # type: ignore[arg-type]
