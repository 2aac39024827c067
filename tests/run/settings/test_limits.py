"""Prompts that do not fit are found before anything is trained: all of them counted, the first one named by its line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anypo.engine.base import Limit
from anypo.engine.remote import RemoteEngine
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.evaluation import evaluate
from anypo.run.record.observer import Observer
from anypo.run.session import train
from anypo.run.settings import limits
from anypo.run.settings.limits import check_prompts
from anypo.tasks.base import Problem

SMALL: dict[str, Any] = {"control.prompts": 2, "control.samples": 2, "generate.max_new": 4}


def write(path: Path, prompts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    return str(path)


def run(tmp_path: Path, task: str, changes: dict[str, Any] | None = None, **settings: Any) -> None:
    plain = {"model": "tiny", "steps": 1, "sft_steps": 0, "eval_size": 2, "set": SMALL | (changes or {})}
    train(task=task, out=tmp_path / "run", **plain | settings)


SHORT = [f"{i}+1=" for i in range(30)]


def test_training_prompts_beyond_the_context(tmp_path: Path) -> None:
    task = write(tmp_path / "q.jsonl", [*SHORT, "9" * 3000, "8" * 600])
    held = write(tmp_path / "h.jsonl", ["a+a=", "b+b="])
    with pytest.raises(UserError) as caught:
        run(tmp_path, task, task_options={"heldout": held})
    said = str(caught.value)
    assert (
        said.startswith("2 of 32 training prompts of task 'q' do not fit: the first, ") and "q.jsonl' line 31" in said
    )
    assert "the model's context is 512" in said and not (tmp_path / "run").exists()


def test_held_out_prompts_beyond_the_context(tmp_path: Path) -> None:
    task = write(tmp_path / "q.jsonl", SHORT)
    held = write(tmp_path / "h.jsonl", ["a+a=", "7" * 700, "6" * 700])
    with pytest.raises(UserError, match=r"1 of 2 held-out prompts of task 'q' does not fit: .*h\.jsonl' line 2"):
        run(tmp_path, task, task_options={"heldout": held})
    run(tmp_path, task, task_options={"heldout": held}, eval_size=1)  # the others are never looked at


def test_the_memory_of_the_engine_is_a_limit(tmp_path: Path) -> None:
    task = write(tmp_path / "q.jsonl", [*SHORT, "5" * 150])
    held = write(tmp_path / "h.jsonl", ["a+a=", "b+b="])
    tight = {"engine.kv_tokens": 200}
    with pytest.raises(
        UserError, match=r"line 31, has 1\d\d tokens, and engine.kv_tokens=200 with max_new=4 leaves room for"
    ):
        run(tmp_path, task, tight, task_options={"heldout": held})


@pytest.mark.parametrize("room", [0, 1])
def test_a_prompt_that_just_fits_runs(tmp_path: Path, room: int) -> None:
    """What the check lets through can be sampled from, to the last token."""
    from anypo import policies
    from anypo.engine.config import Local

    policy = policies.load("tiny", seed=0)
    around = len(policy.chat.encode(Problem.ask("").messages))
    most = Local(kv_tokens=200).sampler(policy).longest(4).tokens
    task = write(tmp_path / "q.jsonl", ["5" * (most - around + room), "6" * (most - around)])
    held = write(tmp_path / "h.jsonl", ["a+a=", "b+b="])
    if room:
        with pytest.raises(UserError, match="1 of 2 training prompts"):
            run(tmp_path, task, {"engine.kv_tokens": 200}, task_options={"heldout": held})
    else:
        run(tmp_path, task, {"engine.kv_tokens": 200}, task_options={"heldout": held})
        assert len(RunFolder.read(tmp_path / "run").metrics()) == 1


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        ({"data": [{"id": "other", "max_model_len": 64}, {"id": "policy", "max_model_len": 128}]}, 127),
        ({"data": [{"id": "other", "max_model_len": 64}]}, 63),
        ({"data": [{"id": "policy"}]}, None),
        ({"data": []}, None),
        ([], None),
    ],
)
def test_a_server_says_its_own_limit(monkeypatch: pytest.MonkeyPatch, answer: Any, most: int | None) -> None:
    engine = RemoteEngine("http://127.0.0.1:9/v1", "policy")
    monkeypatch.setattr(engine.session, "get", lambda *_, **__: type("Answer", (), {"json": lambda self: answer})())
    found = engine.longest(4)
    assert (found.tokens if found else None) == most
    engine.close()


class Counting:
    """A task of `count` problems, and a policy whose tokenizer counts how often it is asked."""

    name = "counting"

    def __init__(self, count: int, stored: bool, text: str) -> None:
        self.count, self.stored, self.text = count, stored, text
        self.given = self.encoded = self.rendered = 0
        self.chat, self.n_heldout = self, 0

    def __len__(self) -> int:
        return self.count

    def train(self, index: int) -> Problem:
        self.given += 1
        return Problem.ask(self.text)

    heldout = train

    def render(self, messages: Any) -> str:
        self.rendered += 1
        return "<user>" + messages[0]["content"]

    def encode(self, messages: Any) -> list[int]:
        self.encoded += 1
        return [0] * len(messages[0]["content"])


def test_only_prompts_near_the_limit_are_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", 50)
    limit = Limit(500, "so it is", "change it")
    short, long = Counting(80, True, "a" * 100), Counting(20, True, "a" * 300)
    assert check_prompts(short, short, limit) == "only the first 50 of 80 training prompts were checked to fit"
    assert (short.given, short.rendered, short.encoded) == (50, 1, 0)
    assert check_prompts(long, long, limit) == "" and long.encoded == 20
    made = Counting(10_000, False, "a")  # one by one, perhaps slowly
    assert check_prompts(made, made, limit) == "" and made.given == limits.MADE


LONG = [*SHORT, "9" * 3000, "8" * 600]


def lived(tmp_path: Path, name: str) -> set[str]:
    """What the run was asked in all of its steps."""
    return set(RunFolder(tmp_path / name).sql("select distinct problem from rollouts").column(0).to_pylist())


def test_prompts_that_do_not_fit_are_dropped_and_counted(tmp_path: Path) -> None:
    task = write(tmp_path / "q.jsonl", LONG)
    held = write(tmp_path / "h.jsonl", ["a+a=", "7" * 700, "b+b="])
    notes: list[str] = []
    watcher = Observer()
    watcher.note = notes.append  # type: ignore[method-assign]
    settings: dict[str, Any] = {
        "task_options": {"heldout": held},
        "overlong": "drop",
        "epochs": 1,
        "steps": None,
        "eval_size": 3,
    }
    run(tmp_path, task, {"control.prompts": 30, "control.samples": 2}, observer=watcher, **settings)
    assert "2 of 32 training prompts of task 'q' do not fit (the model's context is 512): dropped" in notes
    assert "1 of 3 held-out prompts of task 'q' do not fit (the model's context is 512): dropped" in notes
    assert lived(tmp_path, "run") == set(SHORT) and len(RunFolder(tmp_path / "run").metrics()) == 1, (
        "one pass over what is left"
    )
    (before, _) = RunFolder(tmp_path / "run").evaluations()
    assert before["n"] == 2
    assert evaluate(tmp_path / "run", size=3).n == 2, "a run is scored as it scored itself"


def test_prompts_that_do_not_fit_lose_their_beginning(tmp_path: Path) -> None:
    text = "".join(f"{n}," for n in range(400)) + "and then?"
    task = write(tmp_path / "q.jsonl", [text, "1+1="])
    run(tmp_path, task, overlong="truncate", task_options={"heldout": task})
    asked = {len(prompt): prompt for prompt in lived(tmp_path, "run")}
    cut = asked[max(asked)]
    assert cut != text and text.endswith(cut)
    from anypo import policies

    policy = policies.load("tiny", seed=0)
    size = lambda words: len(policy.chat.encode(Problem.ask(words).messages))
    assert size(cut) <= 511 < size(text[-len(cut) - 1 :]), "as much of its end as fits"
    run(tmp_path / "again", task, overlong="truncate", task_options={"heldout": task})
    assert lived(tmp_path / "again", "run") == set(asked.values())


def test_problems_that_are_made_one_by_one_are_cut_as_they_come() -> None:
    class Endless:
        name, weights, outcome = "endless", {"correct": 1.0}, "correct"
        n_heldout = 5

        def __len__(self) -> int:
            return 10**9

        def train(self, index: int) -> Problem:
            return Problem.ask("x" * (index + 1))

        heldout = train

    from anypo import policies

    policy, limit = policies.load("tiny", seed=0), Limit(100, "there is room for 100", "ask for less")
    task, said = limits.fitting(Endless(), policy, limit, "truncate")
    assert not said and len(task) == 10**9
    assert [task.train(index).messages[0]["content"] for index in (0, 9)] == ["x", "x" * 10]
    assert len(policy.chat.encode(task.train(500).messages)) == 100
    whole = Endless()
    assert limits.fitting(whole, policy, limit, "drop") == (whole, []), "and refused as before"
    tight = Limit(1, "there is room for 1", "ask for less")
    with pytest.raises(UserError, match="cannot be cut short enough, and there is room for 1"):
        limits.fitting(Endless(), policy, tight, "truncate")[0].train(3)


def test_every_source_of_a_mixture_is_fitted_and_some_prompt_has_to_be_left(tmp_path: Path) -> None:
    from anypo import policies, tasks

    policy, limit = policies.load("tiny", seed=0), Limit(200, "there is room for 200", "ask for less")
    named = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", LONG), ("b", SHORT))}
    mix = tasks.load("mix", {"of": [{"task": place, "task_options": {"heldout": 0}} for place in named.values()]})
    task, said = limits.fitting(mix, policy, limit, "drop")
    assert [len(own) for own in task.tasks.values()] == [30, 30] and len(task) == 60
    assert said == ["2 of 32 training prompts of task 'a' do not fit (there is room for 200): dropped"]
    with pytest.raises(UserError, match="no training prompt of task 'a' fits: there is room for 3; ask for less"):
        limits.fitting(mix, policy, Limit(3, "there is room for 3", "ask for less"), "drop")
