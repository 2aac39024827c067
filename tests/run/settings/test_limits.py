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
