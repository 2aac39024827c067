"""How a run stood to its base, from the metrics of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anypo.run.beside.beside import ROOMS, TOLERANCE

PART = "base/part/"


@dataclass(frozen=True)
class Standing:
    """name: the base, '' where there was none to compare with; why: the reason, or what the base had to do without. steps: those that
    were compared; same: those in which every room was the base's; learned: those in which either would have moved the weights. rooms:
    in how many steps each room differed. idle: parts of credit or objective that the base has otherwise and that made no difference in
    any step. cosine: mean over the steps that learned, NaN without one."""

    name: str
    why: str = ""
    steps: int = 0
    same: int = 0
    learned: int = 0
    rooms: Mapping[str, int] | None = None
    idle: tuple[str, ...] = ()
    cosine: float = math.nan

    @property
    def inert(self) -> bool:
        """The run was its base from beginning to end."""
        return 0 < self.steps == self.same and self.learned > 0

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"rooms": dict(self.rooms or {}), "idle": list(self.idle)}


def standing(rows: Iterable[Mapping[str, Any]]) -> Standing | None:
    """What the rows of a run (or of a stage) say; None where nothing was beside it."""
    known = [row for row in rows if "base" in row]
    if not known:
        return None
    name, why = str(known[-1]["base"]), str(known[-1].get("base/why", ""))
    seen = [row for row in known if row.get("base/same") is not None]
    cosines = [row["base/cosine"] for row in seen if row.get("base/cosine") is not None]
    parts = {key for row in seen for key in row if key.startswith(PART)}
    return Standing(
        name,
        why,
        len(seen),
        sum(row["base/same"] == 1 for row in seen),
        len(cosines),
        {room: count for room in ROOMS if (count := sum(row.get(f"base/{room}", 0) > TOLERANCE for row in seen))},
        tuple(sorted(k.removeprefix(PART) for k in parts if all(row.get(k, 0) <= TOLERANCE for row in seen))),
        sum(cosines) / len(cosines) if cosines else math.nan,
    )


def last_stage(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the rows of a run in stages those of the last one; all of any other run."""
    when = lambda row: (row.get("round"), row.get("stage"))
    return [row for row in rows if when(row) == when(rows[-1])]


def sentence(found: Standing | None) -> str:
    """What a reader of the run must know; '' where nothing was beside it."""
    if found is None:
        return ""
    if not found.name:
        return f"Not compared with a base ({found.why})."
    if not found.steps:
        return f"No step was compared with {found.name}."
    without = f" ({found.why})" if found.why else ""
    if found.inert:
        return (
            f"This run was {found.name}{without} in {found.same} of {found.steps} steps: in every room it did what {found.name} would "
            "have done."
        )
    other = found.steps - found.same
    if not other:
        never = f"In none of {found.steps} steps did this run do something else than {found.name} would have{without}"
        return f"{never}, and none moved any weight."
    many = f"each of {found.steps}" if other == found.steps else f"{other} of {found.steps}"
    rooms = [room if count == other else f"{room} (in {count})" for room, count in (found.rooms or {}).items()]
    said = f"In {many} steps this run did something else than {found.name} would have{without}"
    said += f": other {_list(rooms)}" if rooms else ""
    pull = (
        f"The pull of the decisions on the weights had a mean cosine of {found.cosine:.3g} with {found.name}'s, 1 being the same."
        if found.learned
        else "No step moved any weight."
    )
    idle = f" No difference in any step came from {_list(found.idle)}." if found.idle else ""
    return f"{said}. {pull}{idle}"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
