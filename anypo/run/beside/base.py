"""What a run is held against: the composition of its system's base, with whatever the run changed in both alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from anypo.algorithm import Algorithm
from anypo.column import BEHAVIOUR, OLD, Column
from anypo.errors import UserError
from anypo.fits import POLICY
from anypo.parts import Part, at, differences
from anypo.roles import idle
from anypo.systems import methods
from anypo.systems.registry import System
from anypo.update.naming import offers
from anypo.update.weights import Weights

PLAIN = ("grpo", "reinforce")
"""What a method of rollouts is held against where no base of its own can be."""

NOWHERE = object()


def candidates(algorithm: Algorithm) -> Iterator[tuple[str, Algorithm]]:
    """Compositions to hold `algorithm` against, by name, the nearest first: its base, the base of that, and so on, then those of
    `PLAIN`. An algorithm that is no named system is held against the latter, with its own other rooms."""
    known = methods()
    own = known.get(algorithm.name)
    names, entry = [], own
    while entry is not None and (entry := known.get(entry.base)) is not None and entry.name not in names:
        names.append(entry.name)
    for name in (*names, *(name for name in PLAIN if name not in names)):
        if name != algorithm.name and (own is None or known[name].bed == own.bed):
            try:
                yield name, fitted(algorithm, own, known[name]).check()
            except UserError:
                continue  # what the run changed does not go with that base


def fitted(algorithm: Algorithm, own: System | None, base: System) -> Algorithm:
    """The base with every change of the run (its presets, its user's settings) to a value that the two systems share."""
    theirs = base.algorithm()
    if own is None:
        return algorithm.replace(name=base.name, credit=theirs.credit, objective=theirs.objective)
    plain, default = theirs.dump(), own.algorithm().dump()
    changes = {
        path: new
        for path, new in differences(default, algorithm.dump())
        if at(plain, path, NOWHERE) == at(default, path, NOWHERE) and at(plain, path, NOWHERE) is not NOWHERE
    }
    return _played(theirs.set(changes)).replace(name=base.name)


def _played(algorithm: Algorithm) -> Algorithm:
    """The algorithm with those of its models that some part asks for."""
    required = frozenset().union(*(part.required() for _, part in algorithm.walk()))
    columns = algorithm.columns() if algorithm.models else frozenset()
    return algorithm.replace(models=tuple(c for c in algorithm.models if idle((c,), required, columns) is None))


def lacking(base: Algorithm, weights: Weights) -> str:
    """Why the losses of `base` cannot be taken on the columns that a run fills for itself, in a few words; '' where they can. Columns
    at the start of the update are free where the live one is read; nothing else is computed for it."""
    trains = [
        path for path, part in base.walk() if type(part).learner is not Part.learner and path not in weights.learners
    ]
    if trains:
        return f"it trains '{trains[0]}', which this run does not"
    missing = unfilled(base.columns(), base, weights)
    return f"it reads '{missing[0]}', which this run does not fill" if missing else ""


def unfilled(names: Collection[str], base: Algorithm, weights: Weights) -> list[str]:
    """Those of the columns that parts of `base` read which a run does not fill."""
    own = {keeper.name for keeper in base.update.keepers()} | {entry.role for entry in base.models}
    sources = {OLD, BEHAVIOUR, *own, *weights.learners} - {POLICY}
    out = []
    for name in sorted(set(names) - weights.names.columns.keys()):
        column = Column.parse(name, sources)
        if column.source == BEHAVIOUR or (column.source == OLD and column.plain in weights.names.live[POLICY]):
            continue
        if column.source or column.view or any(offers(learner, name) for learner in weights.learners.values()):
            out.append(name)
    return out


def readable(base: Algorithm, weights: Weights) -> tuple[Algorithm, str]:
    """`base` without the entries of its lists (penalties, shapings) that read what the run does not fill, and their paths."""
    gone = []
    for path, part in reversed(list(base.walk())):
        above, _, place = path.rpartition(".")
        if place.isdigit() and unfilled(part.needs(), base, weights):
            entries = at(base.dump(), above)
            try:
                base = base.set({above: entries[: int(place)] + entries[int(place) + 1 :]}).check()
            except UserError:
                continue
            gone.append(f"{path} ({part.part})")
    return base, ", ".join(reversed(gone))


def swapped(algorithm: Algorithm, base: Algorithm) -> dict[str, Algorithm]:
    """`algorithm` with one part of its credit or objective at a time as it is in `base`, by the path of that part: which of its parts
    make the difference. Nothing where only one differs, or where the rooms themselves are different parts."""
    plain, theirs, out = algorithm.dump(), base.dump(), {}
    for room in ("credit", "objective"):
        if plain[room].get("part") != theirs[room].get("part"):
            out[room] = theirs[room]
            continue
        out |= {f"{room}.{key}": new for key, new in theirs[room].items() if new != plain[room].get(key)}
    found: dict[str, Algorithm] = {}
    for path, new in out.items() if len(out) > 1 else ():
        try:
            found[path] = algorithm.set({path: new}).check()
        except UserError:
            continue  # the two parts only go together
    return found


__all__ = ["PLAIN", "candidates", "fitted", "lacking", "swapped"]
