r"""Mathematics in plain signs: LaTeX, Unicode, Markdown and words rewritten in a few ASCII characters, linear in the text."""

from __future__ import annotations

import re
import unicodedata

from anypo.tasks.text.answers.figures import LONGEST, written

_CHARACTERS = {
    **dict.fromkeys("−﹣－‒⁃", "-"),
    **dict.fromkeys("×·⋅∙∗", "*"),
    **dict.fromkeys("\u00a0\u202f\u2009\u2007\u2008\u200a", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("≃≅∼", "≈"),
    **dict.fromkeys("⇒⟹→➔↦", " ; "),
    **dict.fromkeys("‘’ʼ", "'"),
    "÷": " ÷ ",
    "—": " — ",
    "…": " ",
    "√": " sqrt ",
}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_SYMBOLS = {
    "times": "*",
    "cdot": "*",
    "div": "÷",
    "approx": "≈",
    "simeq": "≈",
    "sim": "≈",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "lt": "<",
    "gt": ">",
    "ne": "≠",
    "neq": "≠",
    "pm": "±",
    "to": ";",
    "rightarrow": ";",
    "Rightarrow": ";",
    "implies": ";",
    "therefore": ";",
    "circ": "°",
    "degree": "°",
    "quad": " ",
    "qquad": " ",
    "left": "",
    "right": "",
    "big": "",
    "Big": "",
    "displaystyle": "",
    "lbrace": "(",
    "rbrace": ")",
    "ldots": "..",
    "dots": "..",
    "cdots": "..",
    "euro": "€",
    "pounds": "£",
}
_UNIT = (
    r"(?:square |sq\.? |cubic )?"
    r"(?:[kcmdnµμ]?m|km|mi|in|ft|yd|[kmµμ]?g|lbs?|oz|[mnµμ]?s|min|hrs?|h|[mcd]?[lL]|[kMG]?W|kWh|[km]?V|[km]?J|[kM]?N|K|"
    r"[kMG]?Hz|[kMGT]?B|mph|kph|°\s?[CF]?|['′″\"](?=[\s.,)]|$))"
)
_UNITS = re.compile(rf"(?<=[\d%)])[ ]{{0,4}}{_UNIT}(?:\s?[/*]\s?{_UNIT}|\^\(?-?\d\)?)*(?![\w^])")
# Any longer word with a power is a unit, too: "25 units^2".
_RAISED_WORD = re.compile(r"(?<=\d)[ ]{0,4}(?!sqrt|sin|cos|tan|log|ln|exp|pi)[A-Za-z]{2,}\^\(?-?\d\)?(?!\w)")
_SIGN_AFTER = frozenset(
    [
        "is",
        "are",
        "was",
        "be",
        "been",
        "equals",
        "equal",
        "to",
        "of",
        "get",
        "gets",
        "gives",
        "give",
        "becomes",
        "by",
        "at",
        "or",
        "and",
        "than",
        "value",
        "answer:",
        "from",
        "yields",
    ]
)


def plainly(text: str) -> str:
    r"""The text with Unicode, LaTeX and Markdown rewritten: "\boxed{-\tfrac{3}{4}}" becomes "(-(3/4))", "2⁸" becomes "2^8"."""
    if not text.isascii():
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda raised: "^" + raised[0].translate(_RAISED), text)
        text = "".join(map(_character, text))
    text = _latex(text) if "\\" in text or "{" in text else text
    text = re.sub(r"</?[A-Za-z][\w-]*(?:\s[^<>]{0,80})?/?>", " ", text)
    if "*" in text:
        text = _emphasis(text)
    text = text.replace("`", " ")
    text = re.sub(r"-\s?[$€£¥₹](?=[\d.])", " -", text)
    text = re.sub(r"[$€£¥₹]", " ", text)
    text = re.sub(r"(?<=[\d\s])per ?cent\b|(?<=\d) pct\b", "%", text, flags=re.IGNORECASE)
    text = re.sub(r"[=-]{1,4}>", " ; ", text)
    text = re.sub(r"\b(?:minus|negative)\s+(?=[\d.(])", "-", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\d)k\b", " thousand", text)
    text = _RAISED_WORD.sub(" unit", _UNITS.sub(" unit", text))
    text = re.sub(r"(?<=\d)\s+(?:plus|times|over)\s+(?=[-(\d.])", " * ", text)
    text = re.sub(r"(?<=[\d%)]),?\s+(?:or|and|to|through|versus|vs\.?|divided by)\s+(?=[-(\d.])", " ∥ ", text)
    text = re.sub(r"(?<=\d)\s?(?:\.{2,3}| — )\s?(?=\d)", " ∥ ", text).replace("—", ";")
    if "–" in text:
        text = re.sub(r"(?<=\S)\s*[–](?=\d)|(?<=\d)\s*–\s*", _en_dash, text).replace("–", "-")
    return re.sub(r"([-+])[ \t]+(?=[\d.(])", _sign, text)


def _emphasis(text: str) -> str:
    """Without the asterisks of Markdown; those between two operands are products and powers."""
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(])", "^", text).replace("**", " ")
    return re.sub(r"(?<![\w)\s])\*(?=\S)|^\*(?=\S)|(?<=\S)\*(?![\w(\s.])|(?<=\S)\*$", " ", text, flags=re.MULTILINE)


def _character(character: str) -> str:
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character in "₀₁₂₃₄₅₆₇₈₉":
        return "_" + character.translate(_LOWERED)
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if "！" <= character <= "～":
        return chr(ord(character) - 0xFEE0)
    if unicodedata.decomposition(character).startswith("<fraction>") and character != "⅟":
        return " (" + unicodedata.normalize("NFKC", character).replace("⁄", "/") + ")"
    return character


def _latex(text: str) -> str:
    for _ in range(3):
        text, changed = re.subn(
            r"\\(?:text\w*|math(?:rm|bf|it|sf|tt|bb|cal)|mbox|operatorname|boxed|fbox|bm)\s*\{([^{}]*)\}", r" \1 ", text
        )
        if not changed:
            break
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\%", "%").replace("\\$", "$").replace("\\_", "_")
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = re.sub(r"\\[,;: ]|(?<!\\)~", " ", text)
    text = text.replace("\\{", "(").replace("\\}", ")").replace("\\\\", " ; ").replace("\\#", "#")
    text = re.sub(r"\\[dtc]?frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)", _fraction, text)
    text = re.sub(r"\^\s*\\circ|\^\{\s*\\circ\s*\}", "°", text)
    text = re.sub(r"\\([A-Za-z]+)", _symbol, text)
    text = re.sub(r"_\{(\w*)\}", r"_\1", text)
    return re.sub(r"[ ]{1,4}\^", "^", text.replace("{", "(").replace("}", ")"))


def _fraction(match: re.Match[str]) -> str:
    top, bottom = match[1].strip("{} "), match[2].strip("{} ")
    return f" ({top}/{bottom})" if written(top) and written(bottom) and "/" not in top + bottom else " (q/q)"


def _symbol(match: re.Match[str]) -> str:
    name = match[1]
    return f" {_SYMBOLS[name]} " if _SYMBOLS.get(name) else ("" if name in _SYMBOLS else f" {name} ")


def _en_dash(match: re.Match[str]) -> str:
    return (
        " ∥ "
        if match[0].lstrip()[-1:] == "–" and match.string[match.start() - 1 : match.start()].isdigit()
        else match[0]
    )


def _sign(match: re.Match[str]) -> str:
    """A sign that stands apart from its number: kept, taken for a dash or for an operator by what stands before it."""
    line = before(match).rstrip()
    if not line:
        rest = match.string[match.end() : match.end() + LONGEST]
        alone = re.match(r"[\d.,/() %]*(?:\n|$)", rest) and not re.search(r"(?m)^\s*[-+] ", rest)
        return match[1] if alone or match[1] == "+" else " "
    if line[-1] in "=≈:;,([<>≤≥":
        return match[1]
    word = line.split()[-1].strip("*_(\"'").lower()
    if match[1] == "+" or len(word) < 2 or not word[-1].isalpha():
        return match[0]
    return match[1] if word in _SIGN_AFTER else " ; "


def before(match: re.Match[str]) -> str:
    """What stands before a match in its line (at most 200 characters)."""
    return match.string[max(0, match.start() - 200) : match.start()].rpartition("\n")[2]
