"""Axes of a factorial design: ``--vary trust=clip,balanced`` as paths and values of a composition."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anypo.algorithm import Algorithm
from anypo.errors import UserError, cut, unknown
from anypo.parts import SLOTS, Part
from anypo.plugins import discover
from anypo.reading import yaml_value

SHORT = {"loo": "leave_one_out", "mean": "group_mean", "median": "group_median"}
"""Spellings of part names that their words do not give."""


@dataclass(frozen=True)
class Axis:
    """What is varied: a slot, a room or the path of a field; and the values it takes, as written."""

    name: str
    levels: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> Axis:
        """``trust=clip,balanced``; `UserError` unless there are at least two different levels."""
        name, equals, rest = text.partition("=")
        levels = tuple(level.strip() for level in rest.split(",") if level.strip())
        if not equals or len(levels) < 2:
            raise UserError(f"--vary {cut(text)}: write slot=level,level with at least two levels")
        repeated = next((level for level in levels if levels.count(level) > 1), None)
        if repeated:
            raise UserError(f"--vary {cut(text)}: '{cut(repeated)}' appears twice")
        return Axis(name.strip(), levels)


def combinations(base: Algorithm, axes: Sequence[Axis]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Changes by path, and the level of every axis, for each combination of levels."""
    places = [locate(base, axis) for axis in axes]
    for chosen in itertools.product(*(axis.levels for axis in axes)):
        changes = {path: values[level] for (path, values), level in zip(places, chosen)}
        yield changes, {axis.name: level for axis, level in zip(axes, chosen)}


def locate(base: Algorithm, axis: Axis) -> tuple[str, dict[str, Any]]:
    """The path an axis means in `base`, and the value of each of its levels.

    A slot is meant where it has a part of every level's name (``trust``); a room (``credit``) stands for the one slot below
    it that has them all; anything else is the path of a plain field. Part names may be shortened to a word that only one
    part of the slot has. Raises `UserError` when nothing or more than one thing fits.
    """
    discover()  # a level may be a plugin's
    found = [
        (path, names)
        for path, slot in slots(base)
        if axis.name in (path, path.split(".")[0], path.rsplit(".", 1)[-1])
        if (names := _names(slot, axis.levels)) is not None
    ]
    exact = [one for one in found if one[0] == axis.name] or found
    if len(exact) == 1:
        return exact[0]
    if len(exact) > 1:
        raise UserError(f"--vary {axis.name}: could mean {', '.join(path for path, _ in exact)}; write the whole path")
    known = {path for path, _ in slots(base)}
    meant = [path for path in known if axis.name in (path, path.rsplit(".", 1)[-1])]
    if meant:
        slot = dict(slots(base))[meant[0]]
        wrong = next(level for level in axis.levels if _names(slot, [level]) is None)
        raise unknown(f"{slot.slot} part", wrong, slot.parts)
    if "." not in axis.name:
        raise unknown("slot to vary", axis.name, {path.rsplit(".", 1)[-1] for path in known})
    return axis.name, {level: _value(axis, level) for level in axis.levels}


def _value(axis: Axis, level: str) -> Any:
    try:
        return yaml_value(level)
    except ValueError as error:
        raise UserError(f"--vary {axis.name}: '{cut(level)}' is not a value: {error}") from None


def slots(base: Part) -> list[tuple[str, type[Part]]]:
    """Every path of `base` that holds a part, with the slot it fills."""
    return [(path, SLOTS[part.slot]) for path, part in base.walk() if path and part.slot in SLOTS]


def _names(slot: type[Part], levels: Sequence[str]) -> dict[str, Any] | None:
    """The part name of every level, or None when some level names no part of the slot."""
    out = {}
    for level in levels:
        spelled = SHORT.get(level, level) if level not in slot.parts else level
        near = [name for name in slot.parts if name == spelled] or [n for n in slot.parts if level in n.split("_")]
        if len(near) != 1:
            return None
        out[level] = near[0]
    return out
