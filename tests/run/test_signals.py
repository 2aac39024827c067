"""Signals: what is worth finishing is finished, everything else ends at once, and nothing that was done is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anypo.errors import Interrupted, Killed
from anypo.run.disk.folder import RunFolder
from anypo.run.record.observer import Observer
from anypo.run.session import resume, train
from anypo.run.signals import Stopping

SETTINGS = {
    "model": "tiny",
    "steps": 3,
    "sft_steps": 4,
    "eval_size": 4,
    "eval_every": 2,
    "save_every": 100,
    "seed": 5,
    "set": {"control.prompts": 2, "control.samples": 4, "generate.max_new": 4},
}
TIMES = ("time/", "memory/", "rollout/tokens_per_second")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class At(Observer):
    """Sends signals to this process when it is told of unit `unit` of a phase; nothing after that."""

    def __init__(self, phase: str, unit: int, *numbers: int) -> None:
        self.where, self.numbers = (phase, unit), numbers
        self.now = ""

    def phase(self, name: str, total: int) -> None:
        self.now = name
        self.tell(-1)

    def advance(self, done: int) -> None:
        self.tell(done)

    def step(self, metrics: Mapping[str, float]) -> None:
        self.tell(int(metrics["step"]))

    def tell(self, unit: int) -> None:
        if (self.now, unit) == self.where:
            numbers, self.numbers = self.numbers, ()
            for number in numbers:
                signal.raise_signal(number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(out=path, **SETTINGS)
    return path


def left(path: Path) -> tuple[object, ...]:
    folder = RunFolder.read(path)
    metrics = [{k: v for k, v in entry.items() if not k.startswith(TIMES)} for entry in folder.metrics()]
    rollouts = [folder.rollouts(step).to_pylist() for step in folder.rollout_steps()]
    return metrics, sorted(folder.evaluations(), key=lambda e: e["label"]), rollouts


def same(one: Path, other: Path) -> None:
    assert left(one) == left(other) and RunFolder.read(other).status()["state"] == "finished"
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("number", CODES)
def test_the_step_is_finished_and_saved(whole: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(Interrupted, match="stopped after step 1; go on with: anypo resume") as caught:
        train(out=tmp_path / "run", observer=At("training", 1, number), **SETTINGS)
    folder = RunFolder.read(tmp_path / "run")
    assert caught.value.code == CODES[signal.Signals(number)]
    assert folder.status()["state"] == "interrupted" and folder.latest() == 1
    resume(folder.path)
    same(whole, folder.path)


@pytest.mark.parametrize(
    ("phase", "unit", "saved"),
    [
        ("loading the model", -1, None),
        ("evaluating (before)", -1, 0),
        ("evaluating (step 2)", -1, 2),
        ("evaluating (after)", -1, 3),
    ],
)
def test_what_is_repeated_anyway_ends_at_once(whole: Path, tmp_path: Path, phase: str, unit: int, saved: int) -> None:
    with pytest.raises(Killed, match="ended by SIGTERM"):
        train(out=tmp_path / "run", observer=At(phase, unit, signal.SIGTERM), **SETTINGS)
    folder = RunFolder.read(tmp_path / "run")
    assert folder.status()["state"] == "interrupted" and folder.latest() == saved
    assert all(entry["label"] not in phase for entry in folder.evaluations())
    resume(folder.path)
    same(whole, folder.path)
    assert folder.begun  # whenever it was interrupted, it is known in the end who supplied what


def test_the_warm_start_goes_on_inside(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped after supervised step 3") as caught:
        train(out=tmp_path / "run", observer=At("supervised warm start", 3, signal.SIGTERM), **SETTINGS)
    folder = RunFolder.read(tmp_path / "run")
    assert caught.value.code == 143 and folder.latest() == 0
    assert len(folder.load_checkpoint(0)["warm_start"]["losses"]) == 3
    seen: list[int] = []
    again = At("supervised warm start", -2)
    again.advance = lambda done: seen.append(done) if again.now == "supervised warm start" else None  # type: ignore[method-assign]
    resume(folder.path, observer=again)
    assert seen == [3, 4]
    same(whole, folder.path)


def test_a_second_signal_ends_the_step(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anypo.run.session.MINUTE", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "run", observer=At("supervised warm start", 3, 15, 2), **SETTINGS)
    folder = RunFolder.read(tmp_path / "run")
    assert len(folder.load_checkpoint(0)["warm_start"]["losses"]) == 2  # that of step 3 was not made any more
    resume(folder.path)
    same(whole, folder.path)


@pytest.fixture
def hangups_are_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored_and_handlers_are_put_back(hangups_are_ignored: None) -> None:
    before = [signal.getsignal(number) for number in CODES]
    stopping = Stopping(print)
    with stopping.heard(), stopping.finishing():
        signal.raise_signal(signal.SIGHUP)
        assert stopping.code == 0
        signal.raise_signal(signal.SIGTERM)
        assert stopping.code == 143
    assert [signal.getsignal(number) for number in CODES] == before


@pytest.mark.parametrize(("phase", "code"), [("loading the model", 143), ("training", 143)])
def test_the_command_line_exits_with_the_number_of_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, code: int
) -> None:
    """Through the whole command line, whose library has an exit code of its own for Ctrl-C."""
    from anypo.cli import main
    from anypo.run.record import display

    script = At(phase, -1 if phase != "training" else 1, signal.SIGTERM)

    class Told(display.Display):
        def phase(self, name: str, total: int) -> None:
            super().phase(name, total)
            script.phase(name, total)

        def step(self, metrics: Mapping[str, float]) -> None:
            script.step(metrics)

    monkeypatch.setattr(display, "Display", Told)
    words = [
        "train",
        "-m",
        "tiny",
        "--steps",
        "3",
        "--sft-steps",
        "0",
        "--eval-size",
        "0",
        "--out",
        str(tmp_path / "run"),
    ]
    small = [word for field in ("prompts=2", "samples=2") for word in ("--set", f"control.{field}")]
    monkeypatch.setattr("sys.argv", ["anypo", *words, *small, "--set", "generate.max_new=2"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code and RunFolder.read(tmp_path / "run").status()["state"] == "interrupted"
