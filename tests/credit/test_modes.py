"""The modes of a run beside questions with a verifier: without labels (nothing that trains sees a verdict, and what that costs is
measured), supervised data as one-token rollouts, label vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from credit_making import context_for, rollout

from anypo.cli import main
from anypo.data.records import Group
from anypo.errors import UserError
from anypo.filter import Confidence, MajorityVote
from anypo.generate.groups.labels import label_world
from anypo.policies.language.labels import LabelPolicy
from anypo.run.session import train
from anypo.run.settings.config import resolve
from anypo.run.settings.methods import rewarded
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks import load
from anypo.tasks.unlabelled import LABEL, Unlabelled, labelled

SUMS = {"style": "plain", "min_terms": 2, "max_terms": 2, "max_digits": 1}
SHORT = {"control.prompts": 4, "control.samples": 4, "generate.max_new": 4}


def test_the_task_shows_questions_and_nothing_else() -> None:
    plain = load("chain_sum", SUMS)
    hidden = Unlabelled(plain)
    shown, whole = hidden.train(3), plain.train(3)
    assert shown.messages == whole.messages and shown.prompt == whole.prompt and len(hidden) == len(plain)
    assert shown.answer == shown.solution == "" and whole.answer
    assert hidden.weights == {}
    for text, verdict in ((whole.answer, 1.0), ("none", 0.0)):
        environment = hidden.environment(shown)
        assert environment.reset() == whole.messages
        assert environment.step(text).rewards == {LABEL: verdict}


@pytest.mark.parametrize("signal", [MajorityVote(), Confidence()])
def test_signals_take_the_verdict_out_of_what_credit_reads(signal) -> None:
    members = tuple(
        rollout(0.0, 2, 1, i, text=text, rewards={LABEL: float(text == "7")}) for i, text in enumerate("7787")
    )
    context = context_for(signal)
    out = signal.score([Group(1, members)], context)[0]
    assert all(LABEL not in t.rewards for t in out.trajectories)
    assert [t.extra[LABEL] for t in out.trajectories] == [1.0, 1.0, 0.0, 1.0]
    assert context.metrics["filter/accuracy"] == 0.75 and "filter/pseudo_label_accuracy" in context.metrics


def test_the_mode_replaces_what_the_system_had() -> None:
    assert rewarded(find("grpo").algorithm(), "verifier") == find("grpo").algorithm()
    assert [s.part for s in rewarded(find("ttrl").algorithm(), "confidence").filter.signals] == ["confidence"]
    assert [s.part for s in rewarded(find("fapo").algorithm(), "majority").filter.signals][:1] == ["majority_vote"]
    config = resolve("grpo", "tiny", {"filter.signals.0.answer": "boxed"}, reward="majority")
    assert config.reward == "majority" and config.composition().filter.signals == (MajorityVote(answer="boxed"),)
    with pytest.raises(UserError, match="majority"):
        resolve("grpo", "tiny", reward="majorty")


@pytest.mark.parametrize("reward", ["majority", "confidence"])
def test_a_run_measures_against_labels_and_trains_without(tmp_path: Path, reward: str) -> None:
    found = train(
        "grpo", "tiny", "chain_sum", task_options=SUMS, reward=reward, steps=2, sft_steps=2, eval_size=4, set=SHORT,
        out=tmp_path / "run",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("filter/pseudo_label_accuracy" in line and "reward/correct" not in line for line in lines)
    assert lines[0]["accuracy/train"] == lines[0]["filter/accuracy"]
    assert found.before is not None and found.after is not None
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["task"]["labels"] == "hidden from training" and manifest["task"]["weights"] == {}


def test_prompts_without_answers(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n} + 1 ="}) + "\n" for n in range(30)))
    task = load(str(file), {"answer": ""})
    assert not labelled(task) and labelled(load("chain_sum", SUMS))
    assert Unlabelled(task).environment(task.train(0)).step("1").rewards == {}
    run = {"task_options": {"answer": ""}, "steps": 1, "sft_steps": 0, "set": SHORT}
    with pytest.raises(UserError, match="--reward majority"):
        train("grpo", "tiny", str(file), out=tmp_path / "refused", **run)  # type: ignore[arg-type]
    found = train("grpo", "tiny", str(file), reward="majority", out=tmp_path / "run", **run)  # type: ignore[arg-type]
    assert found.before is None and "filter/agreement" in found.metrics
    assert "filter/pseudo_label_accuracy" not in found.metrics and found.metrics["accuracy/train"] != 1.0


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `anypo` with these words."""
    monkeypatch.setattr(sys, "argv", ["anypo", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["--system", "otr", "--set", "generate.draws=16"], "tokens/trained"),
        (["--system", "grpo", "--set", "control.samples=4", "--reward", "majority"], "filter/pseudo_label_accuracy"),
    ],
)
def test_modes_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], metric: str
) -> None:
    small = ["--steps", "2", "--sft-steps", "0", "--eval-size", "0", "--set", "control.prompts=4"]
    assert command(monkeypatch, "train", "--model", "tiny", *words, *small, "--out", str(tmp_path / "run")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["tokens/trained"] > 0 and metric in line for line in lines)
    assert ("labels right" in capsys.readouterr().out) == ("majority" in words)
    assert command(monkeypatch, "train", "--model", "tiny", "--reward", "majorty", "--dry-run") == 2
    assert "majority" in capsys.readouterr().err


def test_label_vectors_learn_from_one_number_per_text() -> None:
    rng = np.random.default_rng(0)
    texts = rng.integers(3, 12, (128, 6))  # labels are the tokens 0 to 2; word w speaks for label w % 3
    inputs = [[3, 0, 1, 2, *text] for text in texts]
    targets = [[int((text % 3 == label).sum() >= 2) for label in range(3)] for text in texts]
    method = find("gliclass-ppo").algorithm().set({"control.prompts": 32, "update.optimiser.lr": 3e-3})
    trainer = Trainer(method, label_world(inputs, targets, LabelPolicy(12)), seed=0, total=12)
    scores = [trainer.step()["reward/f1"] for _ in range(12)]
    assert np.mean(scores[-3:]) > np.mean(scores[:2]) + 0.1
