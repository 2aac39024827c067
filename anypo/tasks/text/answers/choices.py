"""The letter that a text chooses: "The correct answer is B because", "(b)", "D, not A.", "B) Paris"."""

from __future__ import annotations

import re
import unicodedata

from anypo.tasks.text.answers.numbers import TAIL

# A letter that stands alone. What stands around it may be brackets, quotes and Markdown, never another letter, a digit or an
# apostrophe that continues the word ("B's", "D'Arcy", "B+", "C-14").
_ALONE = r"(?<![A-Za-z0-9_\-])(?<![A-Za-z][.'’])[A-Za-z](?![A-Za-z0-9_+]|['’\-–][A-Za-z0-9]|\.[A-Za-z])"
_WRAPPED = rf"[\s(\[{{\"'‘“$*_`]{{0,6}}(?P<letter>{_ALONE})"
_CHOSEN = (
    r"(?:(?:option|choice|letter|answer|candidate|alternative|the|clearly"
    r"|definitely|therefore|most likely|probably|must be)\s+)*"
)

_ANSWER = re.compile(
    r"(?:\banswers?\b[^.\n:;=?]{0,60}?(?:\b(?:is|be|was|are)(?! not\b|n't)\b|[:=])"
    r"|\b(?:correct|right|best|final)\b[^.\n:;=?]{0,30}?(?:\b(?:is|be|was)(?! not\b|n't)\b|[:=])"
    r"|\b(?:choose|chose|pick|select|selected|go(?:ing)? with|went with|opt for|settle on)\b"
    r"|\bit(?:['’]s| is| must be)(?! not\b)"
    r"|\b(?:antwort|lösung)\b(?: ist|[: ]+)|\brespuesta\b[^.\n:]{0,20}?(?: es|:)"
    r"|\bréponse\b[^.\n:]{0,20}?(?: est|:)|\brisposta\b[^.\n:]{0,20}?(?: è|:)"
    r"|答案[是为:：]*)[\s:]*" + _CHOSEN + _WRAPPED,
    re.IGNORECASE,
)
_RIGHT = re.compile(
    _WRAPPED
    + r"[)\]\"'’”*]*,?\s+(?:is|seems|looks|must be|would be|appears)\s+(?:(?:indeed|therefore|clearly|the|thus|most likely|to be)\s+)*"
    r"(?:only\s+)?(?:correct|right|true|best|answer|one|most)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\b(?:option|choice|letter)\s+" + _WRAPPED, re.IGNORECASE)
_ONLY = re.compile(r"\W*" + _WRAPPED + r"[)\]}\"'’”$*_`.:,!]{0,8}(?:\W*$|(?<=[):.,*])\s+\S)")
_LONE = re.compile(rf"(?P<letter>(?:(?<=[(\[]){_ALONE}(?=[)\]])|(?=[A-Z]){_ALONE}))")

_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\brather than|\binstead of|\bthan|\bover|\bneither|\bnor"
    r"|\bexclud(?:e|es|ing)|\beliminat(?:e|es|ing)|\brul(?:e|es|ing) out)\s+"
    r"(?:(?:be|choose|pick|option|choice|the|answer)\s+)*[(\[\"'*]*$",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"[)\]\"'’”*]*(?:\s*(?:,|and|or|nor)\s*[(\[]?[A-Z][)\]]?)*,?\s+(?:is|are|was|were|seems?|looks?|can|could)"
    r"(?:\s*not\b|n['’]t\b|\s+(?:also\s+|clearly\s+|both\s+|all\s+)*"
    r"(?:wrong|incorrect|false|not|impossible|excluded|out|too)\b)",
)
# "A good answer" and "I think" are words; a capital before the letter makes it a name ("Vitamin B", "Plan B", "John F. Kennedy").
_ARTICLE = re.compile(
    r"[)\]\"'’*]*\s+(?!(?:is|because|since|as|it|and|or|over|but|here|seems|looks|must|was|would|then)\b)[a-z]"
)
_NAMED = re.compile(
    r"(?:\b(?:vitamins?|plan|hepatitis|type|class|grade|group|team|figure|table|appendix|section|part|point|side|angle|set|event|box"
    r"|model|phase|room|gate|level|series|schedule|note|key|row|column|line|vertex|node|city|town|person|company)|[A-Z]\.|[0-9°])\s+[\"'(]?$",
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"[)\]\"'’”*]*\s*(?:,|/|or|and|&|,\s*(?:or|and))\s*(?:option\s+|choice\s+)?[(\[\"'*]*[A-Z](?![A-Za-z0-9'])"
)
_HEDGING = re.compile(
    r"(?:[(\[\"'*]*(?<![A-Za-z0-9])[A-Z][)\]\"'*]*,?\s*(?:and\s+"
    r"|or\s+)?)?[(\[\"'*]*(?<![A-Za-z0-9])[A-Z][)\]\"'*]*\s*(?:,|/|\bor\b|\band\b|&|,\s*(?:or|and)\b)\s*[(\[\"'*]*$"
)


def choice(text: str) -> str | None:
    """The letter that a text chooses, as a capital: what it calls the answer, else its only letter, else its last one.

    None where it chooses none, or more than one ("A or B"). Letters that are denied ("not A", "A is wrong"), articles ("A good
    answer"), pronouns and names ("Vitamin B") are no choices.
    """
    text = _plain(text[-TAIL:])
    if boxes := re.findall(r"\\boxed\s*\{\s*\(?([A-Za-z])\)?[.:)]?\s*\}", text):
        return str(boxes[-1]).upper()
    for patterns in ((_ANSWER, _RIGHT), (_OPTION,)):
        found = [match for pattern in patterns for match in pattern.finditer(text) if _chosen(text, match)]
        if found:
            return _single(text, max(found, key=lambda match: match.start("letter")))
    lines = [line for line in text.splitlines() if line.strip()]
    heads = [match for line in lines if (match := _ONLY.match(line)) and _head(line, match)]
    if heads and len(lines) > 1 and len(heads) > 1:
        return None  # the options themselves, and no choice
    if heads and (len(lines) == 1 or heads[0].string in (lines[0], lines[-1])):
        return _single(heads[0].string, heads[0])
    lone = [match for match in _LONE.finditer(text) if _chosen(text, match) and not _names(text, match)]
    return _single(text, lone[-1]) if lone else None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text) if not text.isascii() else text
    text = re.sub(r"\\(?:text\w*|math(?:rm|bf|it|sf))\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"</?[A-Za-z][\w-]*>", " ", text)
    return text.replace("**", "").replace("`", "").replace("$", "")


def _head(line: str, match: re.Match[str]) -> bool:
    """Whether a line begins with its letter: capital, or closed by a bracket or the end of the line ("b", "(b) Paris")."""
    rest = line[match.end("letter") :]
    return not _WRONG.match(rest) and (
        match["letter"].isupper() or rest[:1] in {")", "]", ":"} or not rest.strip(" .)]'\"*_")
    )


def _chosen(text: str, match: re.Match[str]) -> bool:
    """Whether a letter is meant, and not denied."""
    start, end, letter = match.start("letter"), match.end("letter"), match["letter"]
    after = text[end : end + 60]
    bracketed = text[max(0, start - 1) : start] in {"(", "["} and after[:1] in {")", "]"}
    if letter.upper() in "AI" and not bracketed and _ARTICLE.match(after):
        return False
    if (
        letter.islower()
        and not bracketed
        and not re.match(r"\W*(?:$|\n)|['\"*.,;:)!]|\s+(?:because|since|as)\b", after)
    ):
        return letter not in "ai" and match.re is not _RIGHT and after[:1] == " " and not re.match(r"\s[a-z]", after)
    return not _DENIED.search(text[max(0, start - 40) : start]) and not _WRONG.match(after)


def _names(text: str, match: re.Match[str]) -> bool:
    """Whether a lone letter is part of a name, or an initial."""
    before, after = text[max(0, match.start() - 24) : match.start()], text[match.end() : match.end() + 12]
    return _NAMED.search(before) is not None or re.match(r"\.\s?[A-Z]\.|\.\s[A-Z][a-z]+\s*$", after) is not None


def _single(text: str, match: re.Match[str]) -> str | None:
    """The letter, unless it is one of several that are offered together."""
    start, end = match.start("letter"), match.end("letter")
    after, before = text[end : end + 40], text[max(0, start - 40) : start]
    several = _HEDGED.match(after)
    if several and not re.match(
        r"[)\]\"'’”*]*,?\s*(?:and|,)?\s*[(\[]?[A-Z][)\]]?[^.\n]{0,20}(?:\bis\b|\bare\b)", after
    ):
        return None
    offered = _HEDGING.search(before)
    if offered and not _DENIED.search(before[: offered.start()]) and not re.search(r"\b(?:are|is|were)\b", before):
        return None
    return match["letter"].upper()
