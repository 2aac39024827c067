"""What a user did wrong, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: what is wrong, where, and what to do. The command line prints it and exits with code 2."""

    def __init__(self, sentence: str = "") -> None:
        # What is echoed may hold half a character, which no terminal can print.
        super().__init__(sentence.encode("utf-8", "backslashreplace").decode())


class Interrupted(Exception):
    """The run was stopped on purpose (Ctrl-C or a stop request) after a clean checkpoint; exit code 130."""


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
