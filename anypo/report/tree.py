"""The rollouts of a group as the tree that their shared beginnings make: where they forked, and what came of every branch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from anypo.data.records import ACTION, CANCELLED, FINISHED
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder

Row = Mapping[str, Any]
"""A rollout as it is stored (`anypo.run.disk.rollouts.SCHEMA`)."""


@dataclass
class Stretch:
    """Decisions `begin` to `end` of rollout `row`, between two forks, and the stretches that go on from there."""

    row: Row
    begin: int
    end: int
    branches: list[Stretch] = field(default_factory=list)

    @property
    def leaves(self) -> list[Stretch]:
        """The ends of the rollouts that share it."""
        return [leaf for branch in self.branches for leaf in branch.leaves] if self.branches else [self]

    @property
    def advantage(self) -> float | None:
        """The mean of its decisions' advantages in all rollouts that share it; None where nobody trains them."""
        columns = [leaf.row["advantages"] or () for leaf in self.leaves]
        known = [a for column in columns for a in column[self.begin : self.end] if a is not None and math.isfinite(a)]
        return sum(known) / len(known) if known else None

    @property
    def text(self) -> str:
        return "".join(_decided(self.row)[self.begin : self.end])

    @property
    def entropy(self) -> float | None:
        """Of the first decision, nats: how unsure the policy was where the branches part."""
        return _entry(self.row["entropy"], self.begin)

    @property
    def chance(self) -> float | None:
        """Probability of the first decision."""
        logp = _entry(self.row["logp"], self.begin)
        return None if logp is None else math.exp(logp)

    @property
    def given_up(self) -> bool:
        """Whether it is the end of a rollout that was pruned."""
        return not self.branches and self.row["finish"] == CANCELLED

    def ending(self) -> str:
        """How the rollout ends that it is the end of."""
        finish = "" if self.row["finish"] == FINISHED else f", {'pruned' if self.given_up else self.row['finish']}"
        return f"reward {self.row['reward']:.4g}{finish}" + ("" if self.row["trained"] else ", not trained")

    def told(self) -> dict[str, Any]:
        """As plain values."""
        known = {name: getattr(self, name) for name in ("begin", "end", "text", "entropy", "chance", "advantage")}
        leaf = {} if self.branches else {name: self.row[name] for name in ("reward", "finish", "trained")}
        return {"sample": self.row["sample"], **known, **leaf, "branches": [b.told() for b in self.branches]}


@dataclass(frozen=True)
class Shown:
    """The tree of one group: its first branches, what was asked, how many decisions its rollouts have and were sampled,
    and what the generator measured in the step."""

    step: int
    group: int
    problem: str
    top: list[Stretch]
    rollouts: int
    decisions: int
    sampled: int
    measured: Mapping[str, float]

    def about(self) -> str:
        """In words: how much of it is shared."""
        share = 1.0 - self.sampled / self.decisions if self.decisions else 0.0
        of = f"{self.rollouts} rollouts have {self.decisions} decisions, {self.sampled} of them sampled"
        return f"{of}: {share:.0%} are shared"


def shown(folder: RunFolder, step: int | None = None, group: int | None = None) -> Shown:
    """The tree of a group: by default of the newest step, and the group of most forks. Raises `UserError` where nothing is shared."""
    steps = folder.rollout_steps()
    if not steps:
        raise UserError(f"{folder.path} has no rollouts")
    step = steps[-1] if step is None else step
    groups: dict[int, list[Row]] = {}
    for row in folder.rollouts(step).to_pylist(maps_as_pydicts="lossy"):
        groups.setdefault(row["group_id"], []).append(row)
    if not groups:
        raise UserError(f"step {step} has no rollouts")
    if group is not None and group not in groups:
        raise UserError(f"step {step} has no group {group}; it has {min(groups)} to {max(groups)}")
    forks = Counter({number: sum(row["parent"] >= 0 for row in rows) for number, rows in groups.items()})
    chosen = group if group is not None else max(forks, key=lambda number: (forks[number], -number))
    if not forks[chosen]:
        where = f"group {group} of step {step}" if group is not None else f"step {step}"
        raise UserError(f"no rollouts of {where} share a beginning; --tree is for methods that fork, such as treepo")
    rows, decisions = groups[chosen], sum(row["length"] for row in groups[chosen])
    sampled = decisions - sum(max(0, row["fork"]) for row in rows if row["parent"] >= 0)
    entries = [entry for entry in folder.metrics() if entry.get("step") == step]
    measured = {
        name.removeprefix("generate/"): value
        for entry in entries
        for name, value in entry.items()
        if name.startswith("generate/")
    }
    return Shown(step, chosen, rows[0]["problem"] or "", grown(rows), len(rows), decisions, sampled, measured)


def grown(rows: Sequence[Row]) -> list[Stretch]:
    """The branches at the prompt, in the order of samples, with all that comes of them. A fork inside what a rollout shares with
    its parent belongs to the parent; one whose parent is not among `rows` begins at the prompt."""
    by_sample = {row["sample"]: row for row in rows}
    sons: dict[int, list[Row]] = {}
    top = []
    for row in rows:
        mother = by_sample.get(row["parent"])
        while mother is not None and row["fork"] <= max(0, mother["fork"]):
            mother = by_sample.get(mother["parent"])
        if mother is None or row["fork"] <= 0:
            top.append(row)
        else:
            sons.setdefault(mother["sample"], []).append(row)
    return [_stretch(row, 0, sons) for row in top]


def _stretch(row: Row, begin: int, sons: Mapping[int, Sequence[Row]]) -> Stretch:
    later = [son for son in sons.get(row["sample"], ()) if son["fork"] > begin]
    end = min((son["fork"] for son in later), default=row["length"])
    found = Stretch(row, begin, end)
    if later:
        parted = [son for son in later if son["fork"] == end]
        found.branches = [_stretch(row, end, sons), *(_stretch(son, end, sons) for son in parted)]
    return found


def _decided(row: Row) -> list[str]:
    """The text of every decision; empty where it was not kept."""
    if not row["pieces"] or not row["roles"]:
        return []
    return [piece for piece, role in zip(row["pieces"], row["roles"]) if role == ACTION]


def _entry(values: Sequence[float | None] | None, at: int) -> float | None:
    return values[at] if values is not None and at < len(values) else None


def line(text: str, most: int = 60) -> str:
    """A text on one line, its middle left out where it is longer than `most`."""
    plain = text.replace("\n", "⏎")
    return plain if len(plain) <= most else f"{plain[: most // 2]} … {plain[-(most // 2 - 3) :]}"


def parting(stretch: Stretch) -> str:
    """Where the branches of a stretch part, and between what."""
    first = stretch.branches[0]
    unsure = "" if first.entropy is None else f", entropy {first.entropy:.2f}"
    return f"{len(stretch.branches)} branches at decision {stretch.end}{unsure}"


def weighed(stretch: Stretch) -> str:
    """What became of a stretch: its length, its probability at the first decision, its advantage, and the end."""
    parts = [f"{stretch.end - stretch.begin} tokens"]
    parts += [] if stretch.chance is None else [f"p {stretch.chance:.2f}"]
    parts += [] if stretch.advantage is None else [f"advantage {stretch.advantage:+.3g}"]
    return ", ".join([*parts, parting(stretch) if stretch.branches else stretch.ending()])


def html(stretches: Sequence[Stretch]) -> str:
    """Nested lists."""
    items = "".join(
        f"<li{' class=pruned' if s.given_up else ''}><code>{escape(line(s.text))}</code> <small>{escape(weighed(s))}</small>"
        f"{html(s.branches) if s.branches else ''}</li>"
        for s in stretches
    )
    return f"<ul>{items}</ul>"
