"""Pausing, saving and stopping a run from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anypo.errors import Interrupted, UserError
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.run.record.observer import Observer
from anypo.run.session import resume, train

SETTINGS = {
    "model": "tiny",
    "steps": 4,
    "sft_steps": 0,
    "eval_size": 0,
    "save_every": 100,
    "seed": 5,
    "set": {"control.prompts": 2, "control.samples": 4, "generate.max_new": 4},
}
TIMES = ("time/", "memory/", "rollout/tokens_per_second")


class Script(Observer):
    """Asks for something after a step. `then` runs in a thread of its own once the run is paused."""

    def __init__(self, folder: Path, asks: Mapping[int, str], then: tuple[str, ...] = ()) -> None:
        self.folder, self.asks, self.then = folder, asks, then
        self.seen: list[str] = []
        self.thread: threading.Thread | None = None

    def step(self, metrics: Mapping[str, float]) -> None:
        action = self.asks.get(int(metrics["step"]))
        if action:
            RunFolder.read(self.folder).ask(action)
        if action == "pause":
            self.thread = threading.Thread(target=self.go_on)
            self.thread.start()

    def go_on(self) -> None:
        folder = RunFolder.read(self.folder)
        self.wait(lambda: folder.status()["state"] == "paused")
        for action in self.then:
            self.seen.append(f"{action} at {len(folder.metrics())} steps")
            folder.ask(action)
            if action == "checkpoint":
                self.wait(lambda: not requests.asked(self.folder, "checkpoint") and 2 in folder.checkpoints())

    def wait(self, true: object) -> None:
        limit = time.monotonic() + 100
        while not true():  # type: ignore[operator]
            assert time.monotonic() < limit
            time.sleep(0.02)


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if not k.startswith(TIMES)} for entry in RunFolder.read(folder).metrics()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def quick_looks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anypo.run.session.WAIT", 0.02)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(out=path, **SETTINGS)
    return path


def same(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other) and len(numbers(one)) == 4
    for step in range(1, 5):
        a, b = (RunFolder.read(path).rollouts(step) for path in (one, other))
        assert a.equals(b)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_paused_run_waits_saves_when_asked_and_ends_as_if_nothing_had_been(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = Script(path, {2: "pause"}, ("checkpoint", "resume"))
    train(out=path, observer=script, **SETTINGS)
    assert script.thread is not None
    script.thread.join()
    assert script.seen == ["checkpoint at 2 steps", "resume at 2 steps"]
    assert RunFolder.read(path).status()["state"] == "finished" and not (path / "requests").exists()
    same(whole, path)


@pytest.mark.parametrize("asks", [{2: "stop"}, {2: "pause"}])
def test_a_stopped_run_has_saved_and_goes_on_exactly(whole: Path, tmp_path: Path, asks: dict[int, str]) -> None:
    path = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped after step 2; go on with: anypo resume"):
        train(out=path, observer=Script(path, asks, ("stop",)), **SETTINGS)
    folder = RunFolder.read(path)
    assert folder.status()["state"] == "interrupted" and folder.latest() == 2 and len(folder.metrics()) == 2
    requests_of_yesterday = path / "requests"
    requests_of_yesterday.mkdir()
    (requests_of_yesterday / "stop").touch()  # asked too late: must not stop the next session
    resume(path)
    same(whole, path)


def test_a_checkpoint_is_saved_between_steps(tmp_path: Path) -> None:
    script = Script(tmp_path / "run", {1: "checkpoint"})
    train(out=tmp_path / "run", observer=script, **SETTINGS | {"steps": 2})
    assert RunFolder.read(tmp_path / "run").checkpoints() == [1, 2]


def test_only_a_run_with_a_process_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.create(path, {"system": "grpo"}) as folder:
        folder.ask("pause"), folder.ask("pause")
        assert requests.asked(path, "pause")
        with pytest.raises(UserError, match=r"unknown action 'puase'\. Did you mean 'pause'"):
            folder.ask("puase")
        folder.mark("paused")
        assert folder.status()["state"] == "paused" and len(folder.status()["sessions"]) == 1
        folder.ask("resume"), folder.ask("resume")
        assert not requests.asked(path, "pause")
    assert folder.status()["state"] == "killed"  # paused, and its process is gone
    with pytest.raises(UserError, match=r"is killed.*anypo resume"):
        folder.ask("stop")
    with RunFolder.open(path) as folder:
        folder.finish("finished")
    with pytest.raises(UserError, match=r"is not running \(it is finished\), so nobody can pause it$"):
        folder.ask("pause")


def test_each_request_is_taken_once_and_foreign_files_stay(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {"system": "grpo"}) as folder:
        folder.ask("stop")
        (folder.path / "requests" / "mine.txt").touch()
        assert requests.take(folder.path, "stop") and not requests.take(folder.path, "stop")
        folder.ask("checkpoint")
    with RunFolder.open(tmp_path / "run") as folder:
        assert not requests.asked(folder.path, "checkpoint") and (folder.path / "requests" / "mine.txt").exists()
