"""Programs that play roles in tests."""

from __future__ import annotations


def loud(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def sizes(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def one_too_few(texts: list[str]) -> list[str]:
    return texts[1:]


def broken(texts: list[str]) -> list[str]:
    raise ValueError("out of ideas")


NOTHING = 3
