"""The code and the commands of docs/tutorials, run outside the repository at a small size; the options in its tables, checked."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import anypo as library
from anypo import plugins

PAGES = {
    page.stem: page.read_text(encoding="utf-8")
    for page in (Path(library.__file__).parents[1] / "docs/tutorials").glob("*.md")
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.M | re.S)
SMALL = shlex.split(
    "--steps 1 --sft-steps 0 --eval-size 2 --set control.prompts=2 --set control.samples=2 --set generate.max_new=3"
)
CELLS = shlex.split(
    "--budget updates=1 --seeds 1 --sft-steps 0 --eval-size 4 --samples 2 --evaluations 1 --jobs 1"
    " --set control.prompts=2 --set control.samples=2 --set generate.max_new=3"
)
SLOW = ("compare", "watch")
"""Commands that have tests of their own."""


@pytest.fixture
def here(anypo, tmp_path, monkeypatch):
    """The command line in this process, which knows no plugin before the test and none after it."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    for name in ("_chosen", "_installed", "_broken"):
        monkeypatch.setattr(plugins, name, dict(getattr(plugins, name)))
    yield anypo
    own = {
        name
        for name, module in list(sys.modules.items())
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path))
    }
    for name in own:
        del sys.modules[name]
        plugins._withdraw(name)


def small(words: list[str]) -> list[str]:
    """A command at the size of a test."""
    if words[0] == "train" and "--dry-run" not in words:
        return [*words, *SMALL]
    if words[0] == "resume":
        return [*words[: words.index("--steps")], "--steps", "2"]
    return [*words, "--size", "2"] if words[0] == "evaluate" else words


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_tutorial_runs_as_it_stands(here, tmp_path, monkeypatch, page) -> None:
    train = library.train
    monkeypatch.setattr(
        library,
        "train",
        lambda *names, **more: train(
            *names,
            **more
            | {"steps": 1, "sft_steps": 0, "eval_size": 2}
            | {"set": (more.get("set") or {}) | {"control.prompts": 2, "generate.max_new": 3}},
        ),
        raising=False,
    )
    shown = BLOCK.findall(PAGES[page])
    files = {text.split("\n")[0].removeprefix("# "): text for kind, text in shown if kind in ("python", "yaml", "csv")}
    for name, text in files.items():
        (tmp_path / name).write_text(text.split("\n", 1)[1])
    if page != "own-reward" and "near:near" in str(shown):
        raise AssertionError("the function is on another page")
    scripts = [name for name, text in files.items() if "__main__" in text or name == "numbers.py"]
    if page == "own-reward":
        runpy.run_path(scripts.pop(), run_name="__main__")
    for line in (line for kind, text in shown if kind == "bash" for line in text.splitlines()):
        words = shlex.split(line, comments=True)[1:]
        if words[0] in SLOW:
            continue
        done = here(*small(words))
        assert done.code == 0, f"{line}\n{done.err[-2000:]}"
    for name in scripts:
        runpy.run_path(name, run_name="__main__")


def rows(page: str) -> list[str]:
    """The middle cell of every row of a page's first table."""
    lines = [line for line in PAGES[page].splitlines() if line.startswith("| ")][2:]
    return [re.split(r"(?<!\\) \| ", line)[1] for line in lines]


@pytest.mark.parametrize("page", ["from-trl", "from-verl"])
def test_every_option_of_a_table_exists(here, tmp_path, page) -> None:
    import typer
    from typer.main import get_command

    from anypo.cli.options import assignments
    from anypo.cli.runs import train as command
    from anypo.run.settings.config import resolve
    from anypo.systems import find
    from anypo.tasks import parse

    app = typer.Typer()
    command.register(app)
    known = {name for option in get_command(app).params for name in option.opts}
    (tmp_path / "near.py").write_text("def near(text, answer): return 1.0\n")
    seen = 0
    for cell in rows(page):
        for code in re.findall(r"`([^`]+)`", cell):
            words = shlex.split(code)
            asked = {word for word in words if word.startswith("--")}
            assert asked <= known, f"{code}: {asked - known}"
            pairs = list(pairwise(words))
            system = next((value for flag, value in pairs if flag == "--system"), "grpo")
            find(system)
            sets = assignments([value for flag, value in pairs if flag == "--set"], "--set")
            resolve(system, "tiny", sets)
            options = assignments([value for flag, value in pairs if flag == "--task-set"], "--task-set")
            if options and "shape" not in options:
                parse("chain_sum", {name: value for name, value in options.items() if name != "heldout"})
            seen += bool(asked)
    assert seen > 25
