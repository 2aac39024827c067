"""The commands of the README and of docs/*.md: their options exist, and what they train is a method that can be put together.

Those of docs/tutorials and docs/extending.md are run (test_tutorials.py, test_extending.py); docs/first-hour.md is a transcript, with
the mistakes that were made.
"""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import typer.main

import anypo as library
from anypo.cli import application
from anypo.run.settings import rehearsal

ROOT = Path(library.__file__).parents[1]
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name != "first-hour.md"
}
CODE = re.compile(r"^```\w*\n(.*?)^```|((?:^ {4}.*\n)+)", flags=re.M | re.S)
LINE = re.compile(r"^(?: {4}|\$ )?(?:HF_HUB_OFFLINE=0 )?(?:\.venv/bin/)?anypo ([a-z]+(?: .*)?)$", flags=re.M)
ABSENT = re.compile(r"minari:|\./|cuda|\bPATH\b|runs/|--plugin|--config|\.yaml|grpo-tanh|/my-set|openai/")
"""In commands that need what a page does not bring along."""


def commands(page: str) -> list[list[str]]:
    """The words of every command that a page shows, without what follows it in the shell."""
    blocks = "\n".join(found[0] for found in CODE.finditer(PAGES[page].replace("\\\n", "")))
    words = [shlex.split(line, comments=True) for line in LINE.findall(blocks)]
    return [list(takewhile(lambda word: word not in ("&", "&&", "<", "|", ">"), line)) for line in words]


def test_commands_are_found() -> None:
    assert ["train", "--system", "trpo", "--task", "CartPole-v1"] in commands("update.md")
    assert ["generate", "RUN", "-", "--json"] in commands("export.md")
    assert sum(len(commands(page)) for page in PAGES) > 120


def test_every_option_on_the_pages_exists() -> None:
    every, wrong = typer.main.get_command(application()), []
    for page in PAGES:
        for words in commands(page):
            command, rest = every, list(words)
            while hasattr(command, "commands"):
                command = command.commands[rest.pop(0)]
            try:
                command.make_context(words[0], rest)
            except Exception as error:
                wrong.append(f"{page}: anypo {shlex.join(words)}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in PAGES if any(line[0] == "train" for line in commands(page))])
def test_what_the_pages_train_can_be_put_together(anypo, monkeypatch, tmp_path, page) -> None:
    monkeypatch.setattr(rehearsal, "rehearse", lambda config: [])
    (tmp_path / "questions.csv").write_text("question,answer\n1+1=,2\n")
    for words in commands(page):
        if words[0] == "train" and not ABSENT.search(" ".join(words)):
            done = anypo(*words, "--dry-run")
            missing = " is not installed; install it with: pip install " in done.err  # an extra of the page, not ours
            assert done.code == 0 or missing, f"anypo {shlex.join(words)}\n{done.err}"
