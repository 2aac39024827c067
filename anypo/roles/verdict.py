"""What a model that was asked for a verdict has said."""

from __future__ import annotations

import re


def read(reply: str, verdict: str, most: float) -> float | None:
    """The verdict in a judge's reply, in [0, 1]; None where there is none."""
    if verdict == "yes":
        words = re.findall(r"\b(yes|no)\b", reply.lower())
        return float(words[-1] == "yes") if words else None
    number = r"-?\d+(?:\.\d+)?"
    said = re.sub(
        rf"\({number}\s*(?:-|to)\s*{number}\)|\s*(?:/|\bout of\b)\s*{most:g}\b", "", reply.lower()
    )  # the scale, no verdict
    found = re.findall(rf"score[^\w-]{{0,5}}(?:is[^\w-]{{0,3}})?({number})", said) or re.findall(number, said)
    return min(1.0, max(0.0, float(found[-1]) / most)) if found else None


__all__ = ["read"]
