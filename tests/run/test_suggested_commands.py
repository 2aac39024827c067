"""Commands that a run suggests can be pasted into a shell, whatever its folder, model and task are called."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from anypo.cli.terminal.outcome import show
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.requests import ask
from anypo.run.result import Result
from anypo.run.settings.config import RunConfig
from anypo.systems import find

ODD = ["plain", "a run", "ä =1", "[brackets]", "it's", '"quoted"', "$HOME", "a;b", "--run"]


def configured(model: str, task: str) -> RunConfig:
    """A configuration with these names, which nobody looks up."""
    return RunConfig(system="grpo", model=model, task=task, algorithm=find("grpo").algorithm().dump())


@pytest.mark.parametrize("name", ODD)
def test_what_to_try_next(name: str) -> None:
    config = configured(f"models/{name}", f"data/{name}.jsonl")
    train, rollouts = Result.suggestions(SimpleNamespace(config=config, path=Path(f"runs/{name}")))  # type: ignore[arg-type]
    assert shlex.split(train) == [
        "anypo",
        "train",
        f"runs/{name}",
        "--system",
        "rloo",
    ]  # the run with all that it was told
    words = shlex.split(rollouts)
    assert words[:3] == ["anypo", "rollouts", f"runs/{name}"] and len(words) == 4


def test_the_terminal_shows_them_whole() -> None:
    """Neither wrapped nor read as the terminal library's own markup."""
    config = configured("models/[bold]", f"data/{'long ' * 40}.jsonl")
    result = SimpleNamespace(config=config, path=Path("runs/[red]"), before=None, after=None, base="")
    result.suggestions = lambda: Result.suggestions(result)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=60)
    show(result, console)  # type: ignore[arg-type]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.strip() for line in lines[-2:]] == result.suggestions()


@pytest.mark.parametrize("name", ODD)
def test_how_to_go_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir()
    (path / "config.yaml").write_text("{}")
    (path / "metrics.jsonl").write_text("{}")
    with pytest.raises(UserError) as taken:
        RunFolder(path)._claim()
    with pytest.raises(UserError) as dead:
        ask(path, "killed", "stop")
    for command in (
        str(taken.value).partition("with: ")[2].partition(", or")[0],
        str(dead.value).partition("with: ")[2],
    ):
        assert shlex.split(command) == ["anypo", "resume", str(path)]
