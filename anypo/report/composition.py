"""The method of a run, drawn as its eight rooms: which part fills each, and what differs from the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from anypo.algorithm import ROOMS
from anypo.plugins import discover
from anypo.systems import methods

QUESTIONS = {
    "control": "Which prompts, how many rollouts each?",
    "generate": "How is a trajectory proposed?",
    "filter": "Which signals does it get, which survive?",
    "replay": "What is kept and used again?",
    "credit": "How do rewards become advantages?",
    "objective": "How do advantages become a loss?",
    "update": "What happens to the weights?",
    "engine": "Who executes this, in which precision?",
    "policy": "What acts, and what is trained?",
}

Fields = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Parts and fields by path, of the run, of the published method of its name, and of that method's base."""

    run: dict[str, Fields]
    published: dict[str, Fields] | None
    base: dict[str, Fields] | None
    base_name: str

    def mark(self, path: str, field: str = "part") -> str:
        """'own' where the run departs from the published method, 'method' where that departs from its base, or ''.

        What is inside a part that the other has not is not marked again.
        """
        for other, mark in ((self.published, "own"), (self.base, "method")):
            if other is not None and self._differs(path, field, other):
                return mark
        return ""

    def _differs(self, path: str, field: str, other: dict[str, Fields]) -> bool:
        inside = path.split(".")
        above = [".".join(inside[:n]) for n in range(1, len(inside) + (field != "part"))]
        if any(self.run.get(p, {}).get("part") != other.get(p, {}).get("part") for p in above if p in self.run):
            return False
        return self.run[path].get(field) != other.get(path, {}).get(field)

    def removed(self, room: str) -> list[str]:
        """Parts that the base has in this room, in the same surroundings, and the run has not."""
        before = self.base or self.published or {}
        gone = [path for path in before if path.startswith(f"{room}.") and path not in self.run]
        same = lambda path: self.run.get(path, {}).get("part") == before[path].get("part")
        return [
            f"{path.split('.', 1)[1]} {before[path].get('part', '')}"
            for path in gone
            if all(same(above) for above in before if path.startswith(f"{above}."))
        ]


def difference(config: Mapping[str, Any]) -> Difference:
    """Compare the algorithm of a run with the registry."""
    name = str(config.get("system"))
    if name not in methods():
        discover()
    known = methods()
    system = known.get(name)
    base = known.get(system.base) if system is not None else None
    return Difference(
        dict(walk(config.get("algorithm") or {})),
        dict(walk(system.algorithm().dump())) if system is not None else None,
        dict(walk(base.algorithm().dump())) if base is not None else None,
        base.name if base is not None else "",
    )


def walk(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Fields]]:
    """(path, own fields) of every part below `plain`, rooms first; own fields include the part's name as ``part``."""
    if path:
        yield path, {key: value for key, value in plain.items() if not _parts(value)}
    for key, value in plain.items():
        for number, part in enumerate(_parts(value)):
            step = key if isinstance(value, Mapping) else f"{key}.{number}"
            yield from walk(part, f"{path}.{step}" if path else step)


def _parts(value: Any) -> list[Mapping[str, Any]]:
    """The parts a field holds: one, several, or none when it is a plain value."""
    items = [value] if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else []
    return [item for item in items if isinstance(item, Mapping) and "part" in item]


def draw(config: Mapping[str, Any]) -> str:
    """The boxes of the rooms as HTML; those of every stage, one below the other, where the run has several."""
    stages = (config.get("recipe") or {}).get("stages")
    return "".join(map(_stage, stages)) if stages else _rooms(config)


def _stage(stage: Mapping[str, Any]) -> str:
    algorithm, until = stage.get("algorithm") or {}, stage.get("until") or {}
    ends = {key: value for key, value in until.items() if key != "part"}
    early = (
        f", until {until.get('part')} {' '.join(f'{key} {_value(value)}' for key, value in ends.items())}"
        if ends
        else ""
    )
    said = f"at most {stage.get('steps')} steps{early}" if early else f"{stage.get('steps')} steps"
    head = f'<h3 class="stage">{escape(str(stage.get("name")))} <small>{escape(said)}</small></h3>'
    return head + _rooms({"algorithm": algorithm, "system": algorithm.get("name")})


def _rooms(config: Mapping[str, Any]) -> str:
    found = difference(config)
    boxes = "".join(_box(number, room, found) for number, room in enumerate(ROOMS, 1) if room in found.run)
    return f'<ol class="rooms">{boxes}</ol>{_legend(found)}'


def _box(number: int, room: str, found: Difference) -> str:
    paths = [path for path in found.run if path == room or path.startswith(f"{room}.")]
    rows = "".join(_row(path, found) for path in paths)
    gone = "".join(f'<li class="gone">without {escape(name)}</li>' for name in found.removed(room))
    return (
        f'<li class="room room-{room}"><div class="room-head"><span class="room-number">{number}</span><h3>{room}</h3></div>'
        f'<p class="question">{escape(QUESTIONS[room])}</p><ul class="parts">{rows}{gone}</ul></li>'
    )


def _row(path: str, found: Difference) -> str:
    fields = found.run[path]
    label = path.split(".", 1)[1] if "." in path else ""
    shown = (
        f'<span class="field {found.mark(path, key)}">{escape(key)} <i>{escape(_value(value))}</i></span>'
        for key, value in fields.items()
        if key != "part" and value not in (None, "", [], ())
    )
    name = f'<b class="{found.mark(path)}">{escape(str(fields.get("part", "")))}</b>'
    slot = f'<span class="slot">{escape(label)}</span>' if label else ""
    return f'<li class="{"sub" if label else "main"}">{slot}{name} {" ".join(shown)}</li>'


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _legend(found: Difference) -> str:
    marks = {found.mark(path, key) for path, fields in found.run.items() for key in fields}
    texts = {
        "own": "set for this run, differs from the published method",
        "method": f"what the method changes against its base, {found.base_name}",
    }
    items = "".join(f'<li><b class="{mark}">{mark_text}</b></li>' for mark, mark_text in texts.items() if mark in marks)
    return f'<ul class="marks">{items}</ul>' if items else ""
