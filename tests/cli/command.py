"""The command line called in this process, as a shell would call it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from anypo.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Command:
    """`command("train", "--model", "tiny")` runs `anypo train --model tiny`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["anypo", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = self.capsys.readouterr()
        return Outcome(int(end.value.code or 0), said.out, said.err)
