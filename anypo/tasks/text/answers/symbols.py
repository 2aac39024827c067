r"""Mathematics that is no single number: roots, sets, intervals, tuples, expressions ("3\sqrt{2}", "[2, 5)", "x^2 + 1").

What it equals is for math-verify to say, in a worker; here is only what can be told from the letters, in time linear in the text.
"""

from __future__ import annotations

import re

from anypo.tasks.text.answers.numbers import CUE, DENIED, TAIL

_FUNCTIONS = frozenset(
    {
        "sqrt",
        "pi",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "ln",
    }
    | {"exp", "infty", "inf", "frac", "infinity", "cup", "cap"}
)
_COMMAND = re.compile(r"\\(?:(?:begin|end)\{\w+\}|[a-zA-Z]+|.)")
_WORDY = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname)\b")
_SIGN = re.compile(r"[\\^+*√π∞∪()\[\]{}]|[^\W\d_]")
_LONGEST = 400
"""Characters of the longest gold answer that is read so."""
_BOXED = "\\boxed{"
_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed")
_END = re.compile(r"\n|[.!?](?=\s|$)|;\s|\s(?:because|since|as there|which is)\b|,?\s(?:not|rather than|instead of)\b")
_LEAD = re.compile(
    r"^(?:[\s:=~*\"'≈]|(?:simply|just|the|equal|to|given|by|exactly|set|interval|expression|value)\b)+", re.IGNORECASE
)


def symbolic(text: str) -> bool:
    """Whether a gold answer is mathematics and nothing else: no prose, no unit, and more than digits with dashes and colons."""
    bare = text.strip().strip("$").strip()
    if not bare or len(bare) > _LONGEST or _WORDY.search(bare):
        return False
    words = re.findall(r"[^\W\d_]{2,}", _COMMAND.sub(" ", bare))
    letters = re.fullmatch(r"[^\W\d_]", bare)
    return bool(_SIGN.search(bare)) and letters is None and all(word.lower() in _FUNCTIONS for word in words)


def claimed(text: str) -> str:
    r"""The piece of a text that holds its answer: the last \boxed{...}, what follows the last "the answer is" or "####", or the last
    line; delimited by $ where it is not yet. Empty where the answer is denied or nothing is there."""
    tail = text[-TAIL:]
    if (start := tail.rfind(_BOXED)) >= 0:
        return f"${_inside(tail, start + len(_BOXED))}$"
    cues = list(CUE.finditer(tail))
    after = tail[cues[-1].end() :] if cues else tail.strip().rpartition("\n")[2]
    piece = _LEAD.sub("", after.lstrip())
    if end := _END.search(piece):
        piece = piece[: end.start()]
    piece = piece.strip(" *.,:\"'")
    if not piece or _DENYING.match(piece) or (not cues and DENIED.search(piece)):
        return ""
    if _DELIMITED.search(piece):
        return piece
    words = [word for word in _WORD.finditer(piece) if word[0].lower() not in _FUNCTIONS]
    if words and not cues and words[-1][0].lower() not in _SAYING:
        return ""  # "Expand x^2 + 1": mathematics that is spoken about
    bare = piece[words[-1].end() :].strip(" :=*") if words else piece
    bare = _PI.sub(r"\\pi", _ROOT.sub(r"\\sqrt{\1}", bare))
    return f"${bare}$"


_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}\b")
_SAYING = frozenset(
    {
        "is",
        "are",
        "be",
        "equals",
        "get",
        "obtain",
        "have",
        "gives",
        "therefore",
        "thus",
        "so",
        "hence",
        "answer",
        "then",
    }
)
_DENYING = re.compile(r"(?:not|never|neither)\b", re.IGNORECASE)
_ROOT = re.compile(r"√(\d+|\w)")
_PI = re.compile(r"(?<![\\\w])pi\b")


def _inside(text: str, start: int) -> str:
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return text[start:]
