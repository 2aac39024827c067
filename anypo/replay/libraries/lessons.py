"""A short list of lessons in plain words, and the operations by which it changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LESSONS = "lessons"
"""Name of the store on the shelf."""

ADD, UPDATE, DELETE, MERGE = "ADD", "UPDATE", "DELETE", "MERGE"
SPELLINGS = {"MODIFY": UPDATE}


@dataclass(frozen=True)
class Operation:
    """One change: ADD content, UPDATE the first of `ids` to content, DELETE all of `ids`, or MERGE `ids` into one of content. Ids are
    numbers of the list before the plan that the operation belongs to."""

    kind: str
    content: str = ""
    ids: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As a model writes it."""
        return {"operation": self.kind, "id": list(self.ids) if len(self.ids) > 1 else next(iter(self.ids), None)} | (
            {"content": self.content} if self.content else {}
        )


class Lessons:
    """The list as it is; order is age, unless an update renewed an entry in place."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def text(self) -> str:
        """A line for every lesson, numbered from 0."""
        return "\n".join(f"[{number}] {text}" for number, text in enumerate(self.texts))

    def apply(self, plan: Sequence[Operation], most: int) -> None:
        """Carry out a plan (see `revised`)."""
        self.texts = revised(self.texts, plan, most)

    def state_dict(self) -> dict[str, Any]:
        return {"texts": list(self.texts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.texts = [str(text) for text in state["texts"]]


@dataclass
class _Draft:
    """Entries by their old number; new ones get numbers behind all old ones."""

    entries: dict[int, str]
    fresh: int = field(default=0)

    def add(self, text: str) -> None:
        if text and text not in self.entries.values():
            self.entries[self.fresh] = text
            self.fresh += 1


def revised(texts: Sequence[str], plan: Sequence[Operation], most: int) -> list[str]:
    """The list after a plan, whose operations are applied in order and name entries by the numbers of `texts`.

    An entry that is not there any more cannot be updated or merged: its new content is added. Nothing is added twice, nothing empty
    at all; a DELETE needs no content. When there are more than `most` entries the oldest go.
    """
    draft = _Draft(dict(enumerate(texts)), len(texts))
    for operation in plan:
        there = [number for number in operation.ids if number in draft.entries and number < len(texts)]
        if operation.kind == DELETE:
            _remove(draft, there)
        elif operation.kind == ADD or (operation.content and not there):
            draft.add(operation.content)
        elif operation.content:  # UPDATE and MERGE: the first entry takes the content
            draft.entries[there[0]] = operation.content
            _remove(draft, there[1:] if operation.kind == MERGE else [])
    distinct = list(dict.fromkeys(draft.entries[number] for number in sorted(draft.entries)))
    return distinct[max(0, len(distinct) - most) :]


def _remove(draft: _Draft, numbers: Sequence[int]) -> None:
    for number in numbers:
        draft.entries.pop(number, None)


def operations(reply: str) -> list[Operation] | None:
    """The operations that a model wrote: a JSON list of objects with ``operation``, ``id`` (a number or a list of them) and
    ``content``, anywhere in its reply. None when there is no such list; entries that mean nothing (NONE among them) are left out."""
    begin, end = reply.find("["), reply.rfind("]")
    try:
        found = json.loads(reply[begin : end + 1]) if 0 <= begin < end else None
    except ValueError:
        return None
    if not isinstance(found, list):
        return None
    read = [_operation(entry) for entry in found if isinstance(entry, dict)]
    return [operation for operation in read if operation is not None]


def _operation(entry: Mapping[str, Any]) -> Operation | None:
    kind = str(entry.get("operation", ADD)).strip().upper()
    kind = SPELLINGS.get(kind, kind)
    if kind not in (ADD, UPDATE, DELETE, MERGE):
        return None
    named = entry.get("ids", entry.get("id"))
    ids = tuple(n for n in map(_number, named if isinstance(named, list) else [named]) if n is not None)
    content = " ".join(str(entry.get("content") or "").split())
    return Operation(kind, content, ids) if content or kind == DELETE else None


def _number(value: Any) -> int | None:
    """The number of an entry, from 3, "3" or "[3]"."""
    digits = str(value).strip().strip("[]")
    return int(digits) if digits.isdecimal() else None


__all__ = ["ADD", "DELETE", "LESSONS", "MERGE", "UPDATE", "Lessons", "Operation", "operations", "revised"]
