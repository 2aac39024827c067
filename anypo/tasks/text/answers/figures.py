"""One number and nothing else: the forms it may be written in, and what it is worth."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

LONGEST = 1000
"""Characters of the longest number that is read. Beyond +-400 powers of ten an exact fraction would be enormous."""

SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

_NUMBER = r"\.?\d[\d.,'_ ]*(?:e[-+]?\d+)?"
_PLAIN = re.compile(
    rf"""(?P<sign>[-+]?)\s*
    (?: (?P<whole>\d+)\s+\(?(?P<part>\d+\s*/\s*\d+)\)?
      | \(?(?P<above>{_NUMBER})\s*/\s*(?P<below>-?{_NUMBER})\)?
      | (?:(?P<base>{_NUMBER})\s*[*x]\s*)?10\s*\^\s*\(?(?P<power>[-+]?\d{{1,4}})\)?
      | (?P<number>{_NUMBER}) )
    \s*(?P<scale>%|{"|".join(SCALES)})?""",
    re.VERBOSE | re.IGNORECASE,
)
# How the digits of a whole number may be grouped: 1,234 and 12,34,567; 1'234, 1 234 and 1_234; 1.234.567 and 1.234,5. What has
# one comma and is none of these has a decimal comma.
_GROUPED = (
    (re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"), ","),
    (re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?"), ","),
    (re.compile(r"[1-9]\d{0,2}(?:'\d{3})+(?:[.,]\d+)?"), "'"),
    (re.compile(r"[1-9]\d{0,2}(?:_\d{3})+(?:[.,]\d+)?"), "_"),
    (re.compile(r"[1-9]\d{0,2}(?: \d{3})+(?:[.,]\d+)?"), " "),
    (re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}(?:,\d+)?"), "."),
    (re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+"), "."),
    (re.compile(r"\d+,\d+"), ""),
)


def written(side: str) -> str | None:
    """A number in the form that `value` reads ("-3/4", "1234.5", "50%", "1e6"), or None when `side` is anything else."""
    if len(side) > LONGEST:
        return None
    bare = _bare(side)
    match = _PLAIN.fullmatch(bare)
    if match is None or (
        bare != side.strip() and re.search(r"\d,(?!\d{3}(?!\d))", bare)
    ):  # (3,14) is a point, not 3.14
        return None
    sign = "-" if match["sign"] == "-" else ""
    if match["whole"]:
        top, bottom = (int(piece) for piece in match["part"].split("/"))
        body: str | None = f"{int(match['whole']) * bottom + top}/{bottom}" if len(match["whole"]) < 400 else None
    elif match["above"]:
        above, below = _digits(match["above"]), _digits(match["below"].lstrip("-"))
        sign = _times(sign, match["below"])
        body = f"{above}/{below}" if above and below else None
    elif match["power"]:
        base = _digits(match["base"]) if match["base"] else "1"
        body = f"{base}e{int(match['power'])}" if base else None
    else:
        body = _digits(match["number"])
    scale = (match["scale"] or "").lower()
    if body is None or (scale in SCALES and ("/" in body or "e" in body)):
        return None
    found = f"{sign}{body}e{SCALES[scale]}" if scale in SCALES else f"{sign}{body}{scale}"
    return None if value(found) is None else found


def value(found: str) -> Fraction | None:
    """What a text from `written` is worth; None for a division by zero or an exponent beyond +-400."""
    top, slash, bottom = found.removesuffix("%").partition("/")
    try:
        pieces = [Decimal(piece) for piece in ((top, bottom) if slash else (top,))]
    except InvalidOperation:
        return None
    if any(not piece.is_finite() or abs(piece.adjusted()) > 400 for piece in pieces) or (slash and not pieces[1]):
        return None
    exact = Fraction(pieces[0]) / (Fraction(pieces[1]) if slash else 1)
    return exact / 100 if found.endswith("%") else exact


def _digits(blob: str) -> str | None:
    """A decimal without separators, or None where they stand in no known order ("1,2,3", "1.2.3")."""
    blob = blob.strip().lower()
    blob, e, exponent = blob.partition("e")
    tail = e + exponent
    if re.fullmatch(r"\d+(?:\.\d*)?|\.\d+", blob):
        return ("0" if blob.startswith(".") else "") + blob.rstrip(".") + tail
    for pattern, group in _GROUPED:
        if pattern.fullmatch(blob):
            plain = blob.replace(group, "") if group else blob
            return plain.replace(",", ".") + tail
    return None


def _times(sign: str, factor: str) -> str:
    return sign if not factor.startswith("-") else ("" if sign else "-")


def _bare(side: str) -> str:
    """Without white space and brackets around all of it."""
    side = side.strip()
    while len(side) > 1 and (side[0], side[-1]) in {("(", ")"), ("[", "]")} and _closes(side):
        side = side[1:-1].strip()
    return side


def _closes(side: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for index, character in enumerate(side):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return index == len(side) - 1
    return False
