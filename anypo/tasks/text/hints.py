"""Hints: what may be shown to help with a problem, from the least telling to the most; none says the answer."""

from __future__ import annotations

import itertools
import re
from typing import Any

from anypo.errors import UserError
from anypo.tasks.text.rows import text


def levels(value: Any, name: str, where: str) -> tuple[str, ...]:
    """The hints of a row, whose column `name` holds a text (one hint), a list of texts (a whole hint each), or a list of lists: kinds
    of hints, of whose pieces every one is shown with those before it. `UserError` names the place of what is none of these."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        return (text(value, name, where),)
    kinds = [kind if isinstance(kind, (list, tuple)) else [kind] for kind in value]
    for kind in kinds:
        if any(isinstance(piece, (list, tuple, dict)) for piece in kind):
            raise UserError(
                f"{where}: column '{name}' is nested too deeply; give a list of hints, or a list of lists of them"
            )
    pieces = [[text(piece, name, where) for piece in kind] for kind in kinds]
    return tuple("\n".join(kind[: n + 1]) for kind in pieces for n in range(len(kind)))


def steps(expression: str) -> tuple[str, ...]:
    """The way to the value of a sum or product, as hints: one operation after the other from the left, products first, as far as the
    last, which stays open; every hint shows the steps before it, too. Of two terms, of which at least one has two digits, the
    parts by place value: ``23 + 45`` is ``20 + 40 = 60``, then ``60 + 8``. They end before a step whose result is the answer. None
    for other expressions, and where nothing is between question and answer."""
    words = expression.split()
    if len(words) < 3 or not re.fullmatch(r"\d+(?: [+*-] \d+)+", expression.strip()):
        return ()
    lines, answer = _places(words) if len(words) == 3 else _reduced(words), _evaluated(words)
    lines = list(itertools.takewhile(lambda line: not line.endswith(f"= {answer}"), lines))
    return tuple("\n".join(lines[: n + 1]) for n in range(len(lines)))


def _reduced(words: list[str]) -> list[str]:
    """The operations of three terms or more, in order, the last one without its result."""
    lines = []
    while len(words) > 3:
        line, words = _step(words)
        lines.append(line)
    return [*lines, " ".join(words)]


def _evaluated(words: list[str]) -> int:
    """The value of the whole expression."""
    while len(words) > 1:
        words = _step(words)[1]
    return int(words[0])


def _step(words: list[str]) -> tuple[str, list[str]]:
    """The next operation with its result, and what is left."""
    at = next((n for n, word in enumerate(words) if word == "*"), 1)
    left, sign, right = words[at - 1 : at + 2]
    found = str(_value(int(left), sign, int(right)))
    return f"{left} {sign} {right} = {found}", [*words[: at - 1], found, *words[at + 2 :]]


def _places(words: list[str]) -> list[str]:
    """Two terms by place value; none of single digits, where there is no step between."""
    left, sign, right = int(words[0]), words[1], int(words[2])
    if max(left, right) < 10:
        return []
    if sign == "*":
        parts = [f"{left} * {part} = {left * part}" for part in (right - right % 10, right % 10) if part]
        return parts[:1] if len(parts) > 1 else []
    tens = [number - number % 10 for number in (left, right)]
    units = [number % 10 for number in (left, right)]
    first, rest = _value(tens[0], sign, tens[1]), _value(units[0], sign, units[1])
    return [f"{tens[0]} {sign} {tens[1]} = {first}", f"{first} {'-' if rest < 0 else '+'} {abs(rest)}"]


def _value(left: int, sign: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[sign]
