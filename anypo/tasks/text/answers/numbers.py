r"""Numbers as people and models write them: which one in a text is the answer.

Three steps, each linear in the text. `plainly` rewrites LaTeX, Unicode and words ("\dfrac34", "½", "50 percent") in a few ASCII
signs. The text is then cut into *runs*, maximal stretches of mathematics ("x = 3 + 4 = 7"); words end them. A run is an answer when
one of its sides is a number and nothing else: numbers inside another expression ("2^8", "5-7", "x12") never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from anypo.tasks.text.answers.figures import LONGEST, SCALES, value, written
from anypo.tasks.text.answers.plain import before, plainly

TAIL = 4_000
"""Characters at the end of a text in which its answer is looked for."""


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, fraction or percentage and nothing else; None otherwise."""
    found = written(plainly(text))
    return None if found is None else value(found)


_FUNCTIONS = [
    "sqrt",
    "pi",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "exp",
    "mod",
    "choose",
    "lim",
    "inf",
    "infty",
    "theta",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "lambda",
    "mu",
    "sigma",
    "phi",
    "omega",
    "overline",
    "bar",
    "binom",
    "frac",
    "max",
    "min",
    "gcd",
    "lcm",
]
_TOKEN = re.compile(
    rf"""(?P<label>\d+(?:st|nd|rd|th)\b|(?m:^)[ \t]*(?:[-*•][ \t]*)?\(?\d{{1,2}}[.):](?=[ \t]+\S))
    |(?P<number>[1-9]\d{{0,2}}(?:[ ]\d{{3}})+(?!\d)(?:[.,]\d+)?(?![.,]?\d)|\.?\d+(?:[.,'_]\d+)*(?:[eE][-+]?\d+(?!\w))?)
    |(?P<call>[^\W\d_]+(?=\())
    |(?P<scale>(?:{"|".join(SCALES)})\b)
    |(?P<function>(?:{"|".join(_FUNCTIONS)})\b)
    |(?P<word>[^\W\d]\w*(?:[-'.]\w+)*)
    |(?P<comma>,(?=\s?[-(]?\.?\d))
    |(?P<operator>[-+*/^÷±∥()\[\]%<>≤≥≠]|(?<=\d)[:|!](?=[-\d+])|(?<=\d)\ :\ (?=\d)|\|(?=-?\d)|(?<=\d)\|)
    |(?P<relation>[=≈]+)
    |(?P<space>[ \t]+)
    |(?P<end>[.!?;\n]+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_LABELS = frozenset(
    [
        "step",
        "steps",
        "eq",
        "eqn",
        "equation",
        "equations",
        "case",
        "part",
        "figure",
        "fig",
        "table",
        "section",
        "sec",
        "chapter",
        "page",
        "pages",
        "line",
        "lines",
        "example",
        "problem",
        "question",
        "exercise",
        "method",
        "note",
        "item",
        "rule",
        "theorem",
        "lemma",
        "corollary",
        "appendix",
        "footnote",
        "ref",
        "reference",
        "version",
        "task",
        "option",
    ]
)
DENIED = re.compile(r"(?:\bnot|n't|\brather than|\binstead of|\bno)\s*(?:the |equal to )?$", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """A stretch of mathematics. `weak`: a label ("step 3"), the answer only where nothing else is."""

    start: int
    text: str
    weak: bool

    def claims(self) -> tuple[str, ...]:
        """The numbers that the run is said to be: its last side that is a number, then what it is about equal to."""
        if self.text[:2] in {"- ", "+ "}:
            return ()
        if "∥" in self.text:  # "1/2 or 50%" is one number, "5 or 7" none
            same = [written(side) for side in re.split(r"\s*∥\s*", self.text)]
            return (same[0],) if same[0] and all(s and value(s) == value(same[0]) for s in same) else ()
        sides = [written(side) for side in re.split(r"[=≈]+", self.text.strip(" ,"))]
        known = [side for side in sides if side is not None]
        if "≈" not in self.text or len(known) < 2:
            return tuple(known[-1:])
        last = value(known[-1]) or Fraction(0)
        near = [side for side in known if abs((value(side) or Fraction(0)) - last) <= abs(last) / 50]
        return tuple(reversed(near))


def runs(text: str) -> Iterator[Run]:
    """The runs of a plain text that hold a number, in order; those that are denied ("not 5") are left out."""
    tokens = list(_TOKEN.finditer(text))
    begin = last = -1
    holds = False
    word = ""
    for index, token in enumerate([*tokens, None]):
        kind = token.lastgroup if token else "end"
        inside = token is not None and (
            kind in {"number", "operator", "relation", "call", "function"}
            or (kind == "scale" and holds)
            or (kind == "comma" and begin >= 0 and _lists(text, token.end()))
            or (kind == "word" and _variable(text, token, begin >= 0))
        )
        if inside and token is not None:
            if kind == "number" and begin == last >= 0 and tokens[begin].lastgroup == "word" and last + 1 < index:
                begin = -1  # "part B 12": a letter before a number is no factor
            if begin < 0:
                begin, holds = index, False
            holds = holds or kind == "number"
            last = index
            continue
        if kind == "space":
            continue
        if begin >= 0 and holds:
            start, stop = tokens[begin].start(), tokens[last].end()
            piece = text[start:stop]
            if kind == "word" or kind == "end":
                piece = piece.rstrip(" /-") if token is None or not re.search(r"\d", token[0]) else piece
            if not DENIED.search(text[max(0, start - 24) : start]):
                aside = bool(word) and piece.startswith("(") and piece.endswith(")")
                yield Run(start, _balanced(piece), aside or word.lower() in _LABELS)
        begin, holds = -1, False
        if kind == "label" and token is not None:
            figure = re.search(r"\d+", token[0])
            if figure and figure[0] and not token[0].strip()[-1:].isalpha():
                yield Run(token.start(), figure[0], True)
        word = token[0] if token is not None and kind == "word" else ""


def _variable(text: str, token: re.Match[str], running: bool) -> bool:
    """Whether a word is a factor or a term: one letter, but an article only where it touches mathematics."""
    name = token[0]
    glued = text[token.start() - 1 : token.start()] in {*"0123456789+*/^(=-"} and token.start() > 0
    if len(name) > 1:
        return glued and running and bool(re.search(r"\d", name))
    return glued or text[token.end() : token.end() + 1] in {*"+*/^=("} or name not in "aAI"


def _lists(text: str, index: int) -> bool:
    """Whether the number after a comma goes on with a list: no word follows it, unless it joins another number."""
    return re.match(r"\s?[-(]?[\d.,]*\d\)?[ ]+(?!and\b|or\b)[^\W\d_]{2,}", text[index : index + 60]) is None


def _balanced(piece: str) -> str:
    """Without brackets at its ends that the run does not close or open."""
    if len(piece) > LONGEST:
        return piece
    piece = piece.strip()
    while piece[-1:] in {")", "]"} and piece.count(")") + piece.count("]") > piece.count("(") + piece.count("["):
        piece = piece[:-1].rstrip()
    while piece[:1] in {"(", "["} and piece.count("(") + piece.count("[") > piece.count(")") + piece.count("]"):
        piece = piece[1:].lstrip()
    while piece[:1] in {")", "]"}:
        piece = piece[1:].lstrip()
    return piece


CUE = re.compile(
    r"\banswers?\b(?:[^.\n:=;]|\.(?=\d)){0,60}?(?:\b(?:is|are|was|be|equals)\b|[:=≈;])|#{4}"
    r"|\bantwort\b(?: ist|:)|\brespuesta\b(?: es|:)|答案[是:]",
    re.IGNORECASE,
)
_CORRECTION = re.compile(r"\b(?:wait|actually|correction|sorry|mistake|oops)\b", re.IGNORECASE)
_REASON = re.compile(r"\b(?:because|since|as there|given that|which is|i\.e\.)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[\n;]")
_ASIDE = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_CITATION = re.compile(r"(?<=\S)[ ]\[\d+\]")
_FILLER = re.compile(
    r"(?:[\s:;=~*\"'(\[≈]|\b(?:approximately|about|exactly|roughly|around|simply|just|the|equal|to|number|value)\b)*",
    re.IGNORECASE,
)


def readings(text: str) -> tuple[str, ...]:
    """The number that a text answers with, best first where it names it twice ("1/3 ≈ 0.33"); empty where there is none."""
    plain = _ASIDE.sub(_unwrap, _CITATION.sub("", plainly(text[-TAIL:])))
    if cues := list(CUE.finditer(plain)):
        after = plain[cues[-1].end() :]
        if corrections := list(_CORRECTION.finditer(after)):
            return _last(after[corrections[-1].end() :]) or _last(after)
        for start, sentence in _sentences(after):
            found = list(runs(sentence))
            if found:
                first = found[0]
                if start == 0 and _FILLER.fullmatch(sentence[: first.start]) and not first.weak:
                    return first.claims()
                return _last(sentence)
    return _last(plain)


def last_number(text: str) -> str | None:
    """The number that a text answers with, without separators, or None: after "the answer is", otherwise the last one."""
    found = readings(text)
    return found[0] if found else None


def _last(plain: str) -> tuple[str, ...]:
    """The claims of the last run that is no label; reasons given after a number in its own sentence do not count."""
    labels: list[Run] = []
    for _, sentence in reversed(list(_sentences(plain))):
        found = list(runs(sentence))
        reason = _REASON.search(sentence)
        if reason is not None:
            found = [run for run in found if run.start < reason.start()] or found
        if strong := [run for run in found if not run.weak]:
            return strong[-1].claims()
        labels = labels or found
    return labels[-1].claims() if labels else ()


def _sentences(plain: str) -> Iterator[tuple[int, str]]:
    start = 0
    for end in _SENTENCE.finditer(plain):
        yield start, plain[start : end.start()]
        start = end.end()
    yield start, plain[start:]


def _unwrap(match: re.Match[str]) -> str:
    """Brackets with words in them are an aside after a number, and plain text elsewhere."""
    if not re.search(r"[^\W\d_]{2}", match[1]):
        return match[0]
    return " " if re.search(r"\d", before(match)) else f" {match[1]} "
