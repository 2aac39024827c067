"""Who fills which column: names taken apart, once, before a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anypo.column import BEHAVIOUR, OLD, Column
from anypo.errors import UserError
from anypo.fits import POLICY


@dataclass(frozen=True)
class Names:
    """The columns that some part reads, by full name, and by learner what it is asked for.

    live: the columns that the learner can differentiate, with the name it is asked for. given: fixed columns that the policy reads
    for some of these, the far side of a divergence. old: those at the start of an update. draws: the views that are fresh draws
    of the learner.
    """

    columns: Mapping[str, Column] = field(default_factory=dict)
    live: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    given: Mapping[str, Column] = field(default_factory=dict)
    old: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    draws: Mapping[str, Sequence[str]] = field(default_factory=dict)


def named(read: Iterable[str], learners: Mapping[str, Any], references: Sequence[str], models: Iterable[str]) -> Names:
    """Take the names that are `read` apart, and find the one learner that every live column belongs to. Raises `UserError` for two
    sources of one name and for a column that two learners could fill."""
    known = {OLD, BEHAVIOUR, *references, *models, *learners} - {POLICY}
    twice = next((n for n in references if references.count(n) > 1 or n in {OLD, BEHAVIOUR, *models}), None)
    if twice is not None:
        raise UserError(f"two sources of columns are called '{twice}'; give update.references another name")
    columns = {name: Column.parse(name, known) for name in sorted(read)}
    live: dict[str, dict[str, str]] = {path: {} for path in learners}
    for name, column in columns.items():
        if column.source in learners:
            live[column.source][name] = column.plain
            continue
        owners = [path for path, learner in learners.items() if offers(learner, name)]
        if len(owners) > 1:
            raise UserError(
                f"column '{name}' is filled by two sources, {' and '.join(owners)}; read it as "
                f"'{name}_{owners[-1]}' to say whose it is"
            )
        if owners:
            live[owners[0]][name] = name
    policy = learners[POLICY]
    given = {
        name: Column.parse(name, known)
        for column in live[POLICY]
        if hasattr(policy, "reads")
        for name in sorted(policy.reads(column))
    }
    old = {
        path: {n: c.plain for n, c in columns.items() if c.source == OLD and offers(learner, c.plain)}
        for path, learner in learners.items()
    }
    draws = {
        path: sorted({c.view for c in columns.values() if c.view and offers(learner, c.plain)})
        for path, learner in learners.items()
        if hasattr(type(learner), "noise")
    }
    return Names(columns, live, given, old, draws)


def offers(learner: Any, name: str) -> bool:
    """Whether a learner can fill the column `name` with a gradient: it is among its `columns`, or it says so itself."""
    return name in learner.columns or (hasattr(type(learner), "offers") and learner.offers(name))


__all__ = ["Names", "named", "offers"]
