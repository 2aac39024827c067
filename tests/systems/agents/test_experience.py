"""Training-Free GRPO: a frozen policy that learns in words, in a world where lessons change what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Command
from making_systems import numbers

from anypo import policies
from anypo.claims.beds.strategies import STRATEGIES, Strategies
from anypo.data.records import SHOWN, Tokens
from anypo.replay.libraries.lessons import LESSONS, Operation, revised
from anypo.replay.reflection import Reflect
from anypo.run.disk import checkpoint
from anypo.run.disk.folder import RunFolder
from anypo.run.trainer import Trainer
from anypo.scoring import scorer_of
from anypo.systems import find

BED = Strategies(questions=16)
SIZES = {"control.prompts": 6, "generate.max_new": 1, "generate.temperature": 1.0}
PROGRAM = "anypo.claims.beds.strategies:contraster"


def trainer(system: str = "training-free-grpo", seed: int = 3, **changes: Any) -> Trainer:
    method = find(system).algorithm().set(SIZES | {"control.samples": 5} | changes)
    if method.models:
        method = method.set({"models.0.model": PROGRAM})
    return Trainer(method, BED.world(method, seed), seed, 20)


def library(run: Trainer) -> Any:
    return run.world.shelf.find(LESSONS)


def texts(run: Trainer) -> list[list[str]]:
    return [[t.text for t in group.trajectories] for group in run.producer.fresh]


def test_weights_stay_and_lessons_come() -> None:
    run = trainer()
    start = run.weights.policy.weight.detach().clone()
    for _ in range(6):
        numbers(run.step())
    assert torch.equal(run.weights.policy.weight, start) and run.weights.policy.version == 0
    assert len(library(run)) > 0 and run.weights.optimisers == {}
    assert all(len({t.reward for t in group.trajectories}) > 1 for group in run.groups)


@pytest.mark.exact("training-free-grpo")
def test_with_an_empty_library_it_acts_as_the_base_token_for_token() -> None:
    ours, base = trainer(), trainer("grpo")
    ours.step(), base.step()
    assert texts(ours) == texts(base)
    shown = [t.content.shown for g in ours.producer.fresh for t in g.trajectories if isinstance(t.content, Tokens)]
    assert shown and all(s is None for s in shown)


def test_the_library_is_seen_by_the_sampler_and_not_trained_on() -> None:
    run = trainer()
    run.step()
    assert len(library(run))
    hints = sum(1 << "abcdefgh".index(text.split()[1]) for text in library(run).texts)
    metrics = run.step()
    assert metrics["generate/library_share"] == 1.0
    vocabulary = run.weights.policy.graph.vocabulary
    for group in run.producer.fresh:
        number = group.problem.metadata["number"]
        for t in group.trajectories:
            assert isinstance(t.content, Tokens) and t.content.shown is not None and t.guidance == SHOWN
            assert t.content.shown.tolist() == [vocabulary + (number << STRATEGIES) + hints]
            assert t.content.tokens[0] == vocabulary + (number << STRATEGIES)


def test_replaying_every_plan_from_nothing_gives_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[list[Operation]] = []
    plan = Reflect.plan

    def noting(self: Reflect, *given: Any) -> list[Operation]:
        plans.append(plan(self, *given))
        return plans[-1]

    monkeypatch.setattr(Reflect, "plan", noting)
    run = trainer()
    for _ in range(8):
        run.step()
    kept: list[str] = []
    for changes in plans:
        kept = revised(kept, changes, run.algorithm.replay.most)  # type: ignore[attr-defined]
    assert kept == library(run).texts and {o.kind for changes in plans for o in changes} >= {"ADD", "UPDATE"}


def test_a_resumed_run_continues_exactly(tmp_path: Path) -> None:
    run = trainer()
    for _ in range(3):
        run.step()
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    rest = [numbers(run.step()) for _ in range(3)]
    again = trainer()
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(3)] == rest
    assert library(again).texts == library(run).texts


def test_it_is_scored_with_what_it_learned() -> None:
    run = trainer()
    scorer = scorer_of(run.world.task).replace(size=4, samples=200, temperature=1.0)
    library(run).texts = []
    without = scorer.score(run.world, run.algorithm.generate, 0).score
    library(run).texts = [f"use {'abcdefgh'[n]} (1)" for n in np.argsort(-BED.solves(3)[12:].mean(0))[:2]]
    found = scorer.score(run.world, run.algorithm.generate, 0).score
    for score, shown in ((without, ""), (found, library(run).text())):
        assert score == pytest.approx(BED.success(run.world, shown), abs=0.05)
    assert found > without + 0.1


def test_every_group_alike_changes_nothing() -> None:
    run = trainer(**{"control.samples": 1})
    for _ in range(3):
        run.step()
    assert library(run).texts == [] and run.batch.n_sequences == 0


def always(texts: list[str]) -> list[str]:
    """A summariser that learns the same thing whatever it sees."""
    said = {
        "COMPARE": "brevity: say only the number",
        "REVISE": '[{"operation": "ADD", "content": "say only the number"}]',
    }
    return [
        said.get(t.split()[0], t.rsplit("## proposals\n")[-1] if t.startswith("MERGE") else "it tried") for t in texts
    ]


@pytest.fixture
def anypo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capsys)


TRAIN = ("train", "--system", "training-free-grpo", "--model", "tiny", "--set", "control.prompts=8", "--out", "run")


def test_from_the_command_line_weights_stay_and_the_library_is_used(anypo: Command, tmp_path: Path) -> None:
    done = anypo(
        *TRAIN, "--steps", "3", "--sft-steps", "30", "--eval-size", "8", "--json", "--model-as", f"summariser={__name__}:always",
    )  # fmt: skip
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    first = RunFolder.read("run").load_checkpoint(0)["weights"]["learners"]["policy"]
    last = policies.load("run/model").state_dict()
    assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in last)
    assert manifest["models"]["summariser"]["model"] == f"{__name__}:always"
    assert (tmp_path / "run/shelf/lessons.txt").read_text() == "[0] say only the number\n"
    after = json.loads(done.out)["after"]
    scored = anypo("evaluate", "run", "--size", "8", "--json")
    assert scored.code == 0 and json.loads(scored.out)["length"] == after["length"], "the library goes with the run"
    wrong = anypo("evaluate", "run", "--size", "8", "--model-as", "judge=self")
    assert wrong.code == 2 and "nobody asks for a judge" in wrong.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model-as", "summariser"), "--model-as takes ROLE=MODEL, not 'summariser'"),
        (("--model-as", "summariser=self", "--model-as", "summariser=tiny"), "two models for the summariser"),
        (("--model-as", "sumariser=self"), "nobody asks for a sumariser; roles of this algorithm: summariser"),
        (("--model-as", "summariser=no.module:here"), "cannot be imported"),
        (("--model-as", "summariser=./nowhere"), "there is no such folder"),
        (("--set", "models=[]"), "--model-as summariser=PATH"),
        (("--set", "replay=on_policy"), "needs 'library:lessons'"),
        (("--set", "replay.most=0"), "greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(anypo: Command, tmp_path: Path, words: Any, says: str) -> None:
    done = anypo(*TRAIN, *words)
    assert done.code == 2 and says in " ".join(done.err.split()), done.err
    assert not (tmp_path / "run").exists()


def test_a_plain_model_has_no_roles(anypo: Command) -> None:
    done = anypo("evaluate", "tiny", "--model-as", "teacher=self")
    assert done.code == 2 and "is no run" in done.err
