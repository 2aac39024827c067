"""What a user did wrong, said in one sentence."""

from __future__ import annotations

import difflib
import re
import signal
import warnings
from collections.abc import Iterable, Iterator

LONGEST = 200
"""Most characters of what a user wrote that a sentence repeats."""


class UserError(Exception):
    """Bad input: what is wrong, where, and what to do. The command line prints it and exits with code 2."""

    def __init__(self, sentence: str = "") -> None:
        # What is echoed may hold half a character, which no terminal can print.
        super().__init__(sentence.encode("utf-8", "backslashreplace").decode())

    def __str__(self) -> str:
        return cut(super().__str__(), 10 * LONGEST)


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


class Note(UserWarning):
    """Something worth knowing that stops nothing. The command line shows it in one line."""


def note(sentence: str) -> None:
    """Say a sentence that stops nothing, once for each place and wording."""
    warnings.warn(sentence, Note, stacklevel=3)


def nearest(word: str, known: Iterable[str]) -> str:
    """A ` Did you mean 'x'?` clause for the closest known spelling (of dotted paths also of their last name), else for those of which
    it is a whole word, else for those that hold the word or a part of it, or the list of choices when they are few."""
    known = sorted(name for name in known if isinstance(name, str))
    spelled = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    word = str(word)[:LONGEST]
    close = difflib.get_close_matches(word, sorted(spelled), n=1, cutoff=0.75)
    whole = [name for name in known if word.lower() in _words(name)]
    if not close and 0 < len(whole) <= 4:
        return f" Did you mean {' or '.join(repr(name) for name in whole)}?"
    close = close or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{spelled[close[0]]}'?"
    parts = [part for part in _words(word) if len(part) > 2]
    holding = [name for name in known if any(part in name.lower() for part in parts)]
    if 0 < len(holding) <= 4:
        return f" Did you mean {' or '.join(repr(name) for name in holding)}?"
    if 0 < len(known) <= 12:
        return " Known: " + ", ".join(known) + "."
    return ""


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())


def unknown(what: str, word: str, known: Iterable[str], hint: str = "") -> UserError:
    """The standard refusal of a name that is not known."""
    return UserError(f"unknown {what} '{cut(word)}'.{nearest(word, known)}{(' ' + hint) if hint else ''}")


def brief(error: BaseException, most: int = LONGEST) -> str:
    """What an error of another library says, on one line, cut where it is long; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def cut(text: object, most: int = LONGEST) -> str:
    """What the user wrote, as a sentence echoes it: cut where it is long."""
    text = str(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def shown(value: object, most: int = LONGEST) -> str:
    """What the user gave, as a sentence echoes it: its `repr`, cut where that is long. Nothing beyond the cut is looked at, for a
    value of a few lines may have a `repr` of gigabytes."""
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            size = f" ({len(value):,} characters)" if isinstance(value, str) else ""
            return f"{text[:most]}…{size}"
    return text


def _pieces(value: object, most: int) -> Iterator[str]:
    """The `repr` of `value`, piece by piece."""
    if isinstance(value, str):
        yield repr(value[: most + 1])
    elif type(value) in (list, tuple):
        yield "[" if isinstance(value, list) else "("
        for index, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
            yield ", " if index else ""
            yield from _pieces(item, most)
        yield "]" if isinstance(value, list) else ",)" if len(value) == 1 else ")"  # type: ignore[arg-type]
    elif type(value) is dict:
        yield "{"
        for index, (key, held) in enumerate(value.items()):
            yield ", " if index else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(held, most)
        yield "}"
    else:
        try:
            yield repr(value)
        except Exception:  # a number of thousands of digits, or an object that cannot say what it is
            yield f"a value of type {type(value).__name__}"
