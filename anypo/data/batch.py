"""The flat, packed batch: one row per decision, integer ids instead of padding.

`rows` hold per-decision columns [N, ...], `sequences` per-trajectory columns [S, ...]. The ids are ordinary columns: row
column ``sequence`` (0..S-1), sequence column ``group`` (0..G-1). Rows of one sequence are in time order. A batch is a value:
`with_rows` / `with_sequences` return a new one that shares the tensors.

Columns every batch has
  rows:      sequence, position (decision index in its trajectory), turn, version (int64); logp_behaviour, log_mass,
             step_reward (float); entropy_behaviour where the sampler recorded it;
             weight (1 where the row counts in the loss, 0 where masked)
  sequences: group, prompt, length, sample, parent, fork (int64); reward, temperature (float); truncated, demo (bool);
             ``reward/<component>`` for every named component; ``tag/<tag>`` (bool) for every tag
  either:    ``key/<name>`` (int64; -1 where a trajectory has none) for every key, of rows where some trajectory has it by decision
Columns parts and providers add: logp, entropy, logp_old, logp_ref, logp_teacher, value, advantage, return, ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.data import segments
from anypo.data.records import DEMO, Group, Steps, Tokens, Trajectory
from anypo.errors import UserError, unknown

KEYS = ("turn", "position", "sample", "prompt")
"""Columns of every batch that serve as keys."""


def stepped(trajectories: Sequence[Trajectory], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What rollouts in environments add to the rows: ``observation``, ``action``, ``observation_next`` (the observation that
    followed), ``terminated`` (1 where the episode ended there; a time limit does not end it) and what their contents have as `extra`.
    Floats get `dtype`, discrete actions are int64. Nothing for rollouts of tokens."""
    contents = [t.content for t in trajectories if isinstance(t.content, Steps)]
    if (
        not contents
        or len(contents) < len(trajectories)
        or any(c.last.shape != c.observations.shape[1:] for c in contents)
    ):
        return {}
    after = [np.concatenate([c.observations[1:], c.last[None]]) for c in contents]
    ends = [np.append(np.zeros(max(0, len(c.actions) - 1)), c.terminated)[: len(c.actions)] for c in contents]

    def rows(arrays: list[np.ndarray]) -> Tensor:
        flat = np.concatenate(arrays)
        return torch.as_tensor(flat, dtype=torch.int64 if flat.dtype.kind in "iub" else dtype)

    decided = [c for c in contents if len(c.actions)]
    return {
        "observation": rows([c.observations for c in contents]),
        "action": rows([c.actions for c in contents]),
        "observation_next": rows(after),
        "terminated": rows(ends),
        **{name: rows([c.extra[name] for c in decided]) for name in (decided[0].extra if decided else ())},
    }


@dataclass(frozen=True)
class Batch:
    """Packed decisions of S trajectories in G groups (see the module docstring for the columns)."""

    rows: Mapping[str, Tensor]
    sequences: Mapping[str, Tensor]
    n_groups: int
    trajectories: tuple[Trajectory, ...] = ()
    problems: tuple[Any, ...] = ()
    """What each group was asked, None where that is not known [G]; empty in batches that no groups were packed into."""
    views: Mapping[str, tuple[Tokens | None, ...]] = field(default_factory=dict)
    """By view, the content each trajectory has in it [S]; None: its own."""

    # -- construction -------------------------------------------------------------------------------------------------

    @staticmethod
    def pack(groups: Sequence[Group], dtype: torch.dtype = torch.float32) -> Batch:
        """Pack groups into a batch; float columns get `dtype`."""
        trajectories = tuple(t for group in groups for t in group.trajectories)
        group_ids = [g for g, group in enumerate(groups) for _ in group.trajectories]
        batch = Batch.of(trajectories, group_ids, len(groups), dtype)
        return dataclasses.replace(batch, problems=tuple(group.problem for group in groups))

    @staticmethod
    def of(
        trajectories: Sequence[Trajectory], group_ids: Sequence[int], n_groups: int, dtype: torch.dtype = torch.float32
    ) -> Batch:
        """Pack trajectories whose group is given by id (0..n_groups-1)."""
        lengths = np.array([len(t) for t in trajectories], dtype=np.int64)

        def rows(arrays: list[np.ndarray], kind: torch.dtype) -> Tensor:
            flat = np.concatenate(arrays) if arrays else np.zeros(0)
            return torch.as_tensor(flat, dtype=kind)

        def default(array: np.ndarray | None, t: Trajectory) -> np.ndarray:
            return np.zeros(len(t)) if array is None else array

        row_columns = {
            "sequence": torch.repeat_interleave(torch.arange(len(trajectories)), torch.as_tensor(lengths)),
            "position": rows([np.arange(n) for n in lengths], torch.int64),
            "turn": rows([default(t.turn, t) for t in trajectories], torch.int64),
            "version": rows([t.version for t in trajectories], torch.int64),
            "logp_behaviour": rows([t.logp for t in trajectories], dtype),
            "log_mass": rows([default(t.log_mass, t) for t in trajectories], dtype),
            "step_reward": rows([default(t.step_rewards, t) for t in trajectories], dtype),
            "weight": rows([np.ones(len(t)) if t.weight is None else t.weight for t in trajectories], dtype),
        }
        row_columns |= stepped(trajectories, dtype)
        if trajectories and all(t.entropy is not None for t in trajectories):
            row_columns["entropy_behaviour"] = rows([default(t.entropy, t) for t in trajectories], dtype)

        def column(values: list[float] | list[int] | list[bool], kind: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=kind)

        sequence_columns = {
            "group": column(list(group_ids), torch.int64),
            "prompt": column([t.prompt for t in trajectories], torch.int64),
            "length": torch.as_tensor(lengths),
            "sample": column([t.sample for t in trajectories], torch.int64),
            "parent": column([t.parent for t in trajectories], torch.int64),
            "fork": column([t.fork for t in trajectories], torch.int64),
            "reward": column([t.reward for t in trajectories], dtype),
            "temperature": column([t.temperature for t in trajectories], dtype),
            "truncated": column([t.truncated for t in trajectories], torch.bool),
            "demo": column([t.guidance == DEMO for t in trajectories], torch.bool),
        }
        for name in sorted({name for t in trajectories for name in t.rewards}):
            sequence_columns[f"reward/{name}"] = column([t.rewards.get(name, 0.0) for t in trajectories], dtype)
        for tag in sorted({t.belongs for t in trajectories} - {""}):
            sequence_columns[f"tag/{tag}"] = column([t.belongs == tag for t in trajectories], torch.bool)
        for name in sorted({name for t in trajectories for name in t.keys}):
            values = [t.keys.get(name, -1) for t in trajectories]
            if any(isinstance(value, np.ndarray) for value in values):
                each = [np.broadcast_to(value, len(t)) for value, t in zip(values, trajectories)]
                row_columns[f"key/{name}"] = rows(each, torch.int64)
            else:
                sequence_columns[f"key/{name}"] = column([int(value) for value in values], torch.int64)
        return Batch(row_columns, sequence_columns, n_groups, tuple(trajectories))

    # -- sizes and ids ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of rows (decisions)."""
        return len(self.rows["sequence"])

    @property
    def n_sequences(self) -> int:
        return len(self.sequences["group"])

    @property
    def sequence(self) -> Tensor:
        """Sequence id of each row, [N]."""
        return self.rows["sequence"]

    @property
    def group(self) -> Tensor:
        """Group id of each sequence, [S]."""
        return self.sequences["group"]

    @property
    def in_order(self) -> bool:
        """Whether the rows stand sequence by sequence."""
        return bool((self.sequence[1:] >= self.sequence[:-1]).all())

    @property
    def row_group(self) -> Tensor:
        """Group id of each row, [N]."""
        return self.group[self.sequence]

    def key(self, name: str) -> Tensor:
        """The key `name` of every row, int64 [N]; ``turn``, ``position``, ``sample`` and ``prompt`` are keys that every batch has.
        `UserError` where no trajectory has it."""
        if name in KEYS:
            return self.rows[name] if name in self.rows else self.spread(self.sequences[name])
        column = f"key/{name}"
        if column in self.rows:
            return self.rows[column]
        if column in self.sequences:
            return self.spread(self.sequences[column])
        known = {c.removeprefix("key/") for c in (*self.rows, *self.sequences) if c.startswith("key/")}
        raise unknown(
            "key", name, {*known, *KEYS}, "Trajectories get their keys from the generator or the environment."
        )

    def units(self, *by: str) -> tuple[Tensor, int]:
        """Which unit each row belongs to, int64 [N], and how many units there are: rows that agree in all of `by`.

        ``sequence``: one trajectory; ``turn``: one turn of one trajectory; ``group``: one prompt's rollouts; anything else is a key
        (`key`). So ``units("group", "state")`` are the visits to one state in the rollouts of one prompt.
        """
        if by == ("sequence",):
            return self.sequence, self.n_sequences
        columns: list[Tensor] = []
        for name in by:
            if name == "turn":
                columns += [self.sequence, self.rows["turn"]]
            elif name in ("sequence", "group"):
                columns.append(self.sequence if name == "sequence" else self.row_group)
            else:
                columns.append(self.key(name))
        return segments.joint(*columns)

    def tagged(self, tag: str) -> Tensor:
        """Which trajectories belong to the loss `tag` (``""``: those of no tag), bool [S]."""
        tags = {name.removeprefix("tag/"): column for name, column in self.sequences.items() if name.startswith("tag/")}
        none = torch.zeros(self.n_sequences, dtype=torch.bool)
        if tag:
            return tags.get(tag, none)
        for column in tags.values():
            none = none | column
        return ~none

    @property
    def weight(self) -> Tensor:
        """Loss weight of each row (0 where masked), [N]."""
        return self.rows["weight"]

    def __getitem__(self, column: str) -> Tensor:
        """The row column `column`, [N, ...]."""
        try:
            return self.rows[column]
        except KeyError:
            raise KeyError(f"row column '{column}' is not filled; present: {', '.join(sorted(self.rows))}") from None

    def __contains__(self, column: str) -> bool:
        return column in self.rows or column in self.sequences

    # -- new batches -------------------------------------------------------------------------------------------------------

    def with_rows(self, **columns: Tensor) -> Batch:
        """A batch with row columns added or replaced."""
        return dataclasses.replace(self, rows={**self.rows, **columns})

    def with_sequences(self, **columns: Tensor) -> Batch:
        """A batch with sequence columns added or replaced."""
        return dataclasses.replace(self, sequences={**self.sequences, **columns})

    def select(self, chosen: Tensor) -> Batch:
        """The batch restricted to the sequences with index in `chosen` [K] (or a bool mask [S]), in that order.

        Group ids are kept as they are, so group-level columns computed before stay meaningful. Raises `ValueError` when a
        sequence is chosen twice.
        """
        chosen = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        if len(chosen) == self.n_sequences and torch.equal(chosen, torch.arange(len(chosen))) and self.in_order:
            return self
        new_id = torch.full((self.n_sequences,), -1, dtype=torch.int64)
        new_id[chosen] = torch.arange(len(chosen))
        if int((new_id >= 0).sum()) != len(chosen):
            raise ValueError("a sequence can be selected only once")
        renamed = new_id[self.sequence]
        keep = (renamed >= 0).nonzero().flatten()
        keep = keep[torch.argsort(renamed[keep], stable=True)]
        rows = {name: column[keep] for name, column in self.rows.items()} | {"sequence": renamed[keep]}
        sequences = {name: column[chosen] for name, column in self.sequences.items()}
        trajectories = tuple(self.trajectories[i] for i in chosen.tolist()) if self.trajectories else ()
        views = {name: tuple(contents[i] for i in chosen.tolist()) for name, contents in self.views.items()}
        return Batch(rows, sequences, self.n_groups, trajectories, self.problems, views)

    def seen(self, view: str) -> Batch:
        """The same decisions in the contexts of `view`. What truncation kept there is known only where the context is the one that was
        sampled in; elsewhere ``log_mass`` is 0 and nothing is left out."""
        if view not in self.views:
            known = ", ".join(sorted(self.views)) or "none"
            raise UserError(
                f"a column asks for the view '{view}', which no part of the algorithm defines; views here: {known}"
            )
        sampled = [_sampled_in(t, content) for t, content in zip(self.trajectories, self.views[view])]
        trajectories = tuple(
            dataclasses.replace(t, content=t.content if content is None else content, kept=t.kept if known else None)
            for t, content, known in zip(self.trajectories, self.views[view], sampled)
        )
        recorded, mass = self.spread(torch.tensor(sampled, dtype=torch.bool)), self.rows["log_mass"]
        rows = {**self.rows, "log_mass": torch.where(recorded, mass, torch.zeros_like(mass))}
        return dataclasses.replace(self, rows=rows, trajectories=trajectories, views={})

    # -- reductions ----------------------------------------------------------------------------------------------------------

    def spread(self, per_sequence: Tensor) -> Tensor:
        """A sequence column [S, ...] copied to its rows [N, ...]."""
        return per_sequence[self.sequence]

    def sequence_sum(self, rows: Tensor) -> Tensor:
        """Weighted (by `weight`) sum of a row column over each sequence, [S]."""
        return segments.sum(rows * self.weight.to(rows.dtype), self.sequence, self.n_sequences)

    def sequence_mean(self, rows: Tensor) -> Tensor:
        """Weighted mean of a row column over each sequence, [S]; 0 for a sequence without counted rows."""
        return segments.mean(rows, self.sequence, self.n_sequences, self.weight.to(rows.dtype))

    def group_mean(self, per_sequence: Tensor) -> Tensor:
        """Mean of a sequence column over each group, [G]."""
        return segments.mean(per_sequence, self.group, self.n_groups)

    def row_mean(self, rows: Tensor) -> Tensor:
        """Weighted mean of a row column over the whole batch (0 when nothing counts), scalar."""
        weight = self.weight.to(rows.dtype)
        return (rows * weight).sum() / weight.sum().clamp(min=torch.finfo(rows.dtype).tiny)


def _sampled_in(trajectory: Trajectory, content: Tokens | None) -> bool:
    """Whether `content` (None: the trajectory's own) has the context that the trajectory was sampled in."""
    shown = getattr(trajectory.content, "shown", None)
    if content is None or shown is None:
        return content is None and shown is None
    first = content.actions[0] if len(content.actions) else len(content.tokens)
    return np.array_equal(content.tokens[:first], shown)


def segment_ids(batch: Batch) -> tuple[Tensor, int]:
    """A number per decision for the segment it lies in (by the ``starts`` of its trajectory; a trajectory without any is one
    segment), int64 [N], and how many there are."""
    begin, offset = [], 0
    for trajectory, length in zip(batch.trajectories, batch.sequences["length"].tolist()):
        begin += [offset + start for start in trajectory.extra.get("starts", [0]) if start < length]
        offset += length
    if not batch.trajectories:
        return batch.sequence, batch.n_sequences
    first = torch.zeros(len(batch), dtype=torch.int64)
    first[begin] = 1
    return first.cumsum(0) - 1, len(begin)
