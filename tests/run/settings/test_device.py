"""The device of a run: asked for, refused before anything is loaded, recorded."""

import json

import pytest

from anypo.compare import compare
from anypo.compare.plan import Budget, Cell, Contender, Settings
from anypo.errors import UserError
from anypo.run import session
from anypo.run.disk.folder import RunFolder
from anypo.run.evaluation import evaluate
from anypo.run.settings.config import RunConfig, resolve

SMALL = {"steps": 1, "sft_steps": 0, "eval_size": 0, "set": {"control.prompts": 2, "generate.max_new": 2}}


def test_a_run_keeps_what_was_asked_and_records_what_was_used(tmp_path):
    run = session.train("grpo", "tiny", out=tmp_path / "run", device="cpu", **SMALL)
    assert run.config.device == "cpu" and run.config.steps == 1
    made = json.loads((run.path / "manifest.json").read_text())["device"]
    assert (made["asked"], made["used"]) == ("cpu", "cpu") and made["name"].endswith("CPU")
    session.resume(run.path, steps=2, device="auto")
    status = json.loads((run.path / "status.json").read_text())
    assert [session.get("device", {}).get("asked") for session in status["sessions"]] == [None, "auto"]
    assert RunConfig(**RunFolder.read_config(run.path)).device == "cpu"
    assert evaluate(str(run.path), size=2, device="cpu").n == 2


def test_a_device_that_is_not_there_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("anypo.policies.loading.load", lambda *a, **k: pytest.fail("loaded a model"))
    calls = [
        lambda: session.train("grpo", "tiny", out=tmp_path / "run", device="cuda:3"),
        lambda: evaluate("tiny", device="cuda:3"),
        lambda: compare(["grpo"], out=tmp_path / "run", device="cuda:3"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"device 'cuda:3'.*what there is:.*cpu"):
            call()
    with pytest.raises(UserError, match="unknown device 'gpux'"):
        resolve("grpo", "tiny", device="gpux")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_go_on_where_it_was_is_left_as_it_is(tmp_path, monkeypatch):
    run = session.train("grpo", "tiny", out=tmp_path / "run", device="cpu", **SMALL)
    before = (run.path / "status.json").read_text()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda'"):
        session.resume(run.path, steps=2, device="cuda")
    assert (run.path / "status.json").read_text() == before


def test_cells_are_found_again_unless_a_device_is_asked_for():
    def key(**changes):
        return Cell(
            Contender("grpo", {}), "sums", 0, Settings("tiny", {"sums": {}}, Budget("tokens", 1e3), **changes)
        ).key

    assert "device" not in Settings("tiny", {}, Budget("tokens", 1e3)).plain()
    assert key() == key(device="auto") != key(device="cpu")
