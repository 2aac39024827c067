"""Where the answer is in a text: small named functions, and their inverses for writing solutions.

Every function takes the policy's text and returns the answer it contains, stripped, or None when there is none. All run in
time linear in the text, so a degenerate rollout cannot stall the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from anypo.tasks.text.answers.choices import choice
from anypo.tasks.text.answers.numbers import last_number

ExtractName = Literal["whole", "last_line", "last_integer", "last_number", "tags", "boxed", "choice", "code"]

# A minus sign belongs to the number unless it follows a word character or a bracket, as in "12-5" or "(3)-5".
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-−])?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def whole(text: str) -> str | None:
    """The whole text."""
    return text.strip() or None


def last_line(text: str) -> str | None:
    """The last line that is not blank."""
    stripped = text.strip()
    return stripped[stripped.rfind("\n") + 1 :].strip() or None


def last_integer(text: str) -> str | None:
    """The last number if it is an integer ("19", "1,019" and "19.0" are; "19.5" is not)."""
    last = None
    for match in _NUMBER.finditer(text):
        last = match.group()
    if last is None or "e" in last.lower():
        return None
    integer, _, fraction = last.replace(",", "").replace("−", "-").partition(".")
    return integer if not fraction.strip("0") else None


def tags(text: str) -> str | None:
    """What stands between the last <answer> and the </answer> after it."""
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    return text[start + len("<answer>") : end].strip() if 0 <= start < end else None


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin + 1 : index].strip()
    return None


def code(text: str) -> str | None:
    """What stands in the last block between ``` and ```, without the name of the language; a block that does not end goes on to
    the end of the text; without a block the whole text."""
    fences = [match.start() for match in re.finditer(r"^[ \t]*```", text, re.MULTILINE)]
    if not fences:
        return text.strip("\n").rstrip() or None
    opening = fences[-1] if len(fences) % 2 else fences[-2]
    block = text[text.index("```", opening) + 3 :]
    _, _, inside = block.partition("\n")
    return re.split(r"^[ \t]*```", inside, maxsplit=1, flags=re.MULTILINE)[0].rstrip() or None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    function.__name__: function for function in (whole, last_line, last_integer, last_number, tags, boxed, choice, code)
}

INSTRUCTIONS: dict[str, str] = {
    "whole": "",
    "last_line": "Write the final answer alone on the last line.",
    "last_integer": "",
    "last_number": "",
    "tags": "Write the final answer between <answer> and </answer>.",
    "boxed": "Write the final answer inside \\boxed{}.",
    "choice": "End with the letter of the right choice.",
    "code": "Answer with one ```python block.",
}
"""What the prompt asks for, so that the extractor can find the answer."""


def extract(name: str, text: str) -> str | None:
    """The answer in `text` according to the extractor `name`."""
    return EXTRACTORS[name](text)


def write(name: str, answer: str) -> str:
    """The shortest text from which the extractor `name` reads `answer` (the target of a supervised warm start)."""
    if name == "tags":
        return f"<answer>{answer}</answer>"
    if name == "boxed":
        return f"\\boxed{{{answer}}}"
    if name == "code":
        return f"```python\n{answer}\n```"
    return answer
