"""What a user did wrong, said in one sentence."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: what is wrong, where, and what to do. The command line prints it and exits with code 2."""


class Interrupted(Exception):
    """The run was stopped on purpose (Ctrl-C, another signal or a stop request) after a clean checkpoint. The command line exits
    with `code`: 130, or 128 + the number of the signal."""

    def __init__(self, message: str = "", code: int = 130) -> None:
        super().__init__(message)
        self.code = code


class Killed(BaseException):
    """A signal other than Ctrl-C's ends the run at once, with the exit code 128 + its number. Like `KeyboardInterrupt` no error that
    anybody may catch, but none of it: command lines give that an exit code of their own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


def nearest(word: str, known: Iterable[str]) -> str:
    """A ` Did you mean 'x'?` clause for the closest known spelling, or the list of choices when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    if 0 < len(known) <= 12:
        return " Known: " + ", ".join(known) + "."
    return ""


def unknown(what: str, word: str, known: Iterable[str], hint: str = "") -> UserError:
    """The standard refusal of a name that is not known."""
    return UserError(f"unknown {what} '{word}'.{nearest(word, known)}{(' ' + hint) if hint else ''}")


def shown(value: object, most: int = 200) -> str:
    """What the user gave, as a sentence echoes it: its `repr`, cut where that is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
