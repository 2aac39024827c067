"""Content: what messages and observations are made of. Text, arrays, and media that take a known number of tokens.

A message's ``content`` is a text, as chat templates know it, or a list of `Content` in the order in which it is seen. Policies
name the kinds beyond text that they can read in an attribute ``media``; everything else is refused before anything is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anypo.errors import UserError


@dataclass(frozen=True)
class Media:
    """One image, sound or film. `data`: an array (height x width x channels, samples x channels, frames x image), or the
    encoded file. `tokens`: how many tokens of the model's context it takes."""

    kind: Literal["image", "audio", "video"]
    data: np.ndarray | bytes
    tokens: int

    def plain(self) -> dict[str, Any]:
        """Plain data that ``Media(**plain)`` turns back."""
        return {"kind": self.kind, "data": self.data, "tokens": self.tokens}


Content = str | np.ndarray | Media
Message = Mapping[str, Any]
"""``role`` and ``content`` (a text or a list of `Content`), and whatever else the chat template reads."""

ARRAY = "array"
"""The kind of a bare array."""


def pieces(message: Message) -> tuple[Content, ...]:
    """The message's content in order; a text is one piece. Raises `TypeError` for what is no content."""
    content = message["content"]
    whole = (content,) if isinstance(content, (str, np.ndarray, Media)) else tuple(content or ())
    for piece in whole:
        if not isinstance(piece, (str, np.ndarray, Media)):
            raise TypeError(f"a {type(piece).__name__} is no content (text, an array, or Media)")
    return whole


def media(messages: Sequence[Message]) -> tuple[Media, ...]:
    """Every `Media` of the messages, in order."""
    return tuple(piece for message in messages for piece in pieces(message) if isinstance(piece, Media))


def parted(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """The messages before the policy's turn, and the text that this turn has been begun with: an assistant's message that comes
    last is gone on with."""
    if not messages or messages[-1].get("role") != "assistant":
        return tuple(messages), ""
    return tuple(messages[:-1]), str(messages[-1]["content"] or "")


def reworded(messages: Sequence[Message], change: Callable[[str], str]) -> tuple[Message, ...]:
    """The messages with the text of the last one changed that is not the beginning of the policy's turn."""
    before, _ = parted(messages)
    asked = max(0, len(before) - 1)
    new = {**messages[asked], "content": change(str(messages[asked]["content"]))}
    return (*messages[:asked], new, *messages[asked + 1 :])


def readable(messages: Sequence[Message], policy: Any, source: str) -> tuple[Message, ...]:
    """The messages as `policy` can read them: lists of texts are joined, lists with other kinds are left to policies whose
    ``media`` names all of these. Raises `UserError` naming `source` and the first kind that the policy cannot read."""
    out = []
    for message in messages:
        if isinstance(message.get("content"), str):
            out.append(message)
            continue
        whole = pieces(message)
        kinds = [_kind(piece) for piece in whole if not isinstance(piece, str)]
        foreign = [kind for kind in kinds if kind not in getattr(policy, "media", ())]
        if foreign:
            raise UserError(
                f"{source} shows content of kind '{foreign[0]}', which this policy cannot read; choose a policy that reads it, "
                "or a task of text"
            )
        out.append(message if kinds else {**message, "content": "".join(map(str, whole))})
    return tuple(out)


def _kind(piece: Content) -> str:
    return piece.kind if isinstance(piece, Media) else ARRAY
