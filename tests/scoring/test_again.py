"""`anypo evaluate RUN` repeats the evaluation that the run ended with, to the last digit, for every kind of run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anypo.run.evaluation import evaluate
from anypo.run.record.observer import Observer
from anypo.run.session import train
from anypo.scoring.scores import majority_at_k

TEXT = {"model": "tiny", "steps": 2, "sft_steps": 8, "eval_size": 24, "seed": 3}
SMALL = {"control.prompts": 4, "control.samples": 4, "generate.max_new": 12}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "stop strings": ("grpo", TEXT | {"set": SMALL | {"generate.stop": ["1", "3"], "engine.kv_tokens": 600}}),
    "adapters": ("grpo", TEXT | {"lora": 4, "set": SMALL | {"update.optimiser.lr": 0.01}}),
    "bfloat16": ("grpo", TEXT | {"dtype": "bfloat16", "set": SMALL}),
    "control": ("ppo", {"task": "CartPole-v1", "steps": 1, "eval_size": 6, "seed": 3, "set": {"generate.steps": 32}}),
    "continuous control": (
        "ppo",
        {"task": "Pendulum-v1", "steps": 1, "eval_size": 4, "seed": 3, "set": {"generate.steps": 32}},
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_is_scored_as_it_scored_itself(tmp_path: Path, kind: str) -> None:
    system, settings = RUNS[kind]
    done = train(system, out=tmp_path / "run", **settings)
    again = evaluate(str(tmp_path / "run"))
    assert done.after is not None and again.summary() == done.after.summary()
    texts = lambda found: [(t.text, t.reward, len(t)) for t in found.trajectories]
    assert texts(again) == texts(done.after) and again.n == settings["eval_size"]


class Notes(Observer):
    said: tuple[str, ...] = ()

    def note(self, message: str) -> None:
        self.said += (message,)


def test_as_many_problems_as_there_are(tmp_path: Path) -> None:
    for name, count in (("q", 12), ("h", 4)):
        rows = [json.dumps({"prompt": f"{name}{i}+1=", "answer": 1}) + "\n" for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    notes = Notes()
    options = {"heldout": str(tmp_path / "h.jsonl")}
    found = evaluate("tiny", task=str(tmp_path / "q.jsonl"), task_options=options, size=9, max_new=2, observer=notes)
    assert found.n == 4 and notes.said[-1] == "task 'q' has 4 held-out problems, not 9"


@pytest.mark.parametrize(
    ("answers", "right", "share"),
    [
        ([f"way {i}: 4" for i in range(5)] + ["5"] * 3, [True] * 5 + [False] * 3, 1.0),
        (["4", "5", "5"], [True, False, False], 0.0),
        (["4", "4.0", "5", "5"], [True, True, False, False], 0.5),
        (["4", "5", "6"], [True, False, False], 1 / 3),
        (["4", None, None, None], [True, False, False, False], 1.0),  # no answer is no vote
        ([None, None], [False, False], 0.0),
        ([], [], 0.0),
    ],
)
def test_majorities_are_of_answers(answers: list[str | None], right: list[bool], share: float) -> None:
    assert majority_at_k(answers, right) == pytest.approx(share)


def test_a_majority_is_of_what_the_verifier_reads(tmp_path: Path) -> None:
    from anypo import tasks

    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": 1}) + "\n" for i in range(4)))
    task = tasks.load(tasks.parse(str(tmp_path / "q.jsonl"), {"verifier": "numeric"}))
    assert [task.answer(text) for text in ("so it is 7", "7 it is", "nothing")] == ["7", "7", None]
