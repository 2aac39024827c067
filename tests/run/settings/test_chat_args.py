"""Arguments of the chat template: they hold for the whole run, and for whatever is done with it later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anypo import policies
from anypo.errors import UserError
from anypo.policies.language import tiny
from anypo.policies.language.causal import LanguagePolicy
from anypo.run.disk.folder import RunFolder
from anypo.run.evaluation import evaluate
from anypo.run.session import resume, train
from anypo.run.settings.config import resolve

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt and not thinking | default(true) %}no{% endif %}"
)
SMALL = {"update.optimiser.lr": 1e-3, "generate.max_new": 4, "control.prompts": 2, "control.samples": 2}
SETTINGS = {"task": "chain_sum", "sft_steps": 0, "eval_size": 2, "save_every": 1, "set": SMALL}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = tiny.tokenizer(512)
    tokenizer.chat_template = TEMPLATE
    LanguagePolicy(tiny.model(tiny.TinyConfig(layers=1, hidden=32, intermediate=32), 0), tokenizer).save(path)
    return str(path)


def prompts(run: Path, step: int) -> set[str]:
    """The ends of the prompts that were seen in a step."""
    chat = policies.load({"model": "tiny", "layers": 1, "hidden": 32}).chat
    rows = RunFolder.read(run).rollouts(step).to_pylist(maps_as_pydicts="lossy")
    return {chat.decode([t for t, role in zip(row["tokens"], row["roles"]) if role == 0])[-3:] for row in rows}


def test_they_are_kept_and_used_everywhere(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train("grpo", model, steps=1, out=run, chat_args={"thinking": False}, **SETTINGS)
    assert RunFolder.read_config(run)["chat_args"] == {"thinking": False}
    described = json.loads((run / "manifest.json").read_text())["model"]["chat"]
    assert described["arguments"] == {"thinking": False} and len(described["sha256"]) == 64
    resume(run, steps=2)
    assert prompts(run, 1) | prompts(run, 2) == {"\nno"}
    seen: list[object] = []
    whole = policies.load

    def watched(*args: object, chat: object = None, **options: object) -> object:
        seen.append(chat)
        return whole(*args, chat=chat, **options)

    monkeypatch.setattr("anypo.policies.load", watched)
    evaluate(str(run), size=2)
    evaluate(str(run), size=2, chat_args={"thinking": True})
    assert seen == [{"thinking": False}, {"thinking": True}]


def test_those_that_nobody_reads_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reads no argument 'thinkng'\. Did you mean 'thinking'"):
        train("grpo", model, steps=1, out=tmp_path / "run", chat_args={"thinkng": False}, **SETTINGS)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="takes actions, not text"):
        resolve("ppo", None, task="CartPole-v1", chat_args={"thinking": False})


def test_another_model_is_given_those_that_it_reads(model: str) -> None:
    chat = policies.load(model).chat
    assert chat.reading({"thinking": False, "other": 1}).arguments == {"thinking": False}
    assert chat.reading({"other": 1}) is chat
