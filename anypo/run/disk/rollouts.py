"""Rollouts as tables: one Parquet file a step, one row a trajectory.

Columns (`SCHEMA`): `group_id` numbers the groups of the step; `advantage` is the trajectory's and `advantages` its decisions';
both are null where the rollout was not trained on (`trained` false). `tokens`, `roles` and `pieces` (the text of each token)
cover the whole trained-on sequence, `media` names the kinds of the images, sounds and films in it (null for text alone), `logp`,
`entropy`, `advantages` and `turns` cover its decisions (the tokens of role 1), and so does `kept`: the tokens that top-p, top-k,
min-p or a mask left to each (an empty list where it left all, null where it never left any out). A key's list holds one id for the
whole trajectory or one per decision. `guide` is the text that a guided rollout was shown beside its problem, `level` which of its
guides that was (0 tells least).

What a step made and did not train on is a table of its own (`aside`), with the column `why` before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anypo.data.batch import Batch
from anypo.data.records import Group, Tokens, Trajectory
from anypo.files import replace_file

Decoder = Callable[[np.ndarray], str]

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("group_id", pa.int32()),
        ("prompt", pa.int64()),
        ("problem_index", pa.int64()),
        ("source", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("text", pa.string()),
        ("reward", pa.float64()),
        ("rewards", pa.map_(pa.string(), pa.float64())),
        ("advantage", pa.float64()),
        ("trained", pa.bool_()),
        ("length", pa.int32()),
        ("finish", pa.string()),
        ("temperature", pa.float64()),
        ("sample", pa.int32()),
        ("version_min", pa.int64()),
        ("version_max", pa.int64()),
        ("parent", pa.int32()),
        ("fork", pa.int32()),
        ("visit", pa.int64()),
        ("guidance", pa.string()),
        ("guide", pa.string()),
        ("level", pa.int32()),
        ("tag", pa.string()),
        ("keys", pa.map_(pa.string(), pa.list_(pa.int64()))),
        ("failed", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("roles", pa.list_(pa.int8())),
        ("media", pa.list_(pa.string())),
        ("pieces", pa.list_(pa.string())),
        ("turns", pa.list_(pa.int32())),
        ("logp", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
        ("kept", pa.list_(pa.list_(pa.int32()))),
        ("advantages", pa.list_(pa.float32())),
    ]
)


def table(step: int, groups: Sequence[Group], batch: Batch | None = None, decode: Decoder | None = None) -> pa.Table:
    """The groups of a step as a table. `batch` (after credit) supplies advantages; `decode` (tokens to text) the pieces."""
    advantages = _advantages(batch) if batch is not None else {}
    known: dict[int, str] = {}
    rows = []
    for number, group in enumerate(groups):
        for trajectory in group.trajectories:
            credit = advantages.get(id(trajectory.content))
            row = _row(trajectory) | {"step": step, "group_id": number}
            row["problem_index"] = group.index if group.index >= 0 else None
            row |= {"visit": group.visit, "source": getattr(group.problem, "source", "") or None}
            row |= {"problem": problem_text(group.problem), "answer": str(getattr(group.problem, "answer", "") or "")}
            row["trained"] = credit is not None
            if credit is not None:
                row |= {"advantage": credit[0], "advantages": credit[1]}
            if decode is not None and isinstance(trajectory.content, Tokens):
                row["pieces"] = pieces(trajectory.content.tokens, decode, known)
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


WHY = pa.field("why", pa.string())
"""Who set a rollout aside: the ``generator`` (another was put in its place, or it only served others) or a ``filter``."""


def aside(step: int, groups: Sequence[Group], decode: Decoder | None = None) -> pa.Table:
    """The rollouts that a step set aside as a table: `WHY` and the columns of `SCHEMA`."""
    rows = table(step, groups, decode=decode)
    why = ["generator" if group.aside else "filter" for group in groups for _ in group.trajectories]
    return rows.add_column(0, WHY, pa.array(why, WHY.type))


def write(path: Path, rollouts: pa.Table) -> None:
    """Write a table as Parquet, complete or not at all."""
    replace_file(path, lambda temporary: pq.write_table(rollouts, temporary, compression="zstd"))


def problem_text(problem: Any) -> str:
    """What the policy was asked, as text: the messages, each after its role where there are several."""
    messages: list[Any] = list(getattr(problem, "messages", ()))
    if len(messages) == 1:
        return str(messages[0].get("content", ""))
    return "\n\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in messages)


def pieces(tokens: np.ndarray, decode: Decoder, known: dict[int, str] | None = None) -> list[str]:
    """The text of each token; together they are ``decode(tokens)``.

    Tokens are decoded one at a time (`known` remembers them). Where that does not add up, because a character is spread over
    several tokens or the tokenizer treats a beginning specially, each token gets what it adds to the text before it, and a
    character goes to the token that completes it.
    """
    known = {} if known is None else known
    out = []
    for token in tokens.tolist():
        if token not in known:
            known[token] = decode(np.array([token]))
        out.append(known[token])
    return out if "".join(out) == decode(tokens) else _incremental(tokens, decode)


def _incremental(tokens: np.ndarray, decode: Decoder) -> list[str]:
    out, begin, done = [], 0, 0  # text before `done` is out; decoding starts at `begin` so that it sees a context
    for end in range(1, len(tokens) + 1):
        before, after = decode(tokens[begin:done]), decode(tokens[begin:end])
        if end < len(tokens) and (after.endswith("\ufffd") or len(after) <= len(before)):
            out.append("")
            continue
        out.append(after[len(before) :])
        begin, done = done, end
    return out


def _row(trajectory: Trajectory) -> dict[str, Any]:
    version = trajectory.version
    content = trajectory.content if isinstance(trajectory.content, Tokens) else None
    return {
        "prompt": trajectory.prompt,
        "text": trajectory.text,
        "reward": float(trajectory.reward),
        "rewards": [(name, float(value)) for name, value in trajectory.rewards.items()],
        "length": len(trajectory),
        "finish": trajectory.finish,
        "temperature": trajectory.temperature,
        "sample": trajectory.sample,
        "version_min": int(version.min()) if len(version) else None,
        "version_max": int(version.max()) if len(version) else None,
        "parent": trajectory.parent,
        "fork": trajectory.fork,
        "guidance": trajectory.guidance,
        "guide": trajectory.extra.get("guide"),
        "level": trajectory.extra.get("level"),
        "tag": trajectory.belongs,
        "keys": [(name, np.atleast_1d(value).tolist()) for name, value in trajectory.keys.items()],
        "failed": str(trajectory.extra.get("failed", "") or ""),
        "tokens": content.tokens if content else None,
        "roles": content.roles if content else None,
        "media": [piece.kind for piece in content.media] if content and content.media else None,
        "turns": trajectory.turn,
        "logp": trajectory.logp,
        "entropy": trajectory.entropy,
        "kept": list(trajectory.kept) if trajectory.kept is not None else None,
    }


def _advantages(batch: Batch) -> dict[int, tuple[float, np.ndarray]]:
    """Advantage of every trajectory and of its decisions, by the identity of the trajectory's content.

    Parts return new records that share the content, so a rollout is recognised whatever was added to it on the way.
    """
    if "advantage" not in batch.rows:
        return {}
    per_row = batch.rows["advantage"].detach().double().cpu().numpy()
    of_row = batch.sequence.cpu().numpy()
    order = np.argsort(of_row, kind="stable")
    each = np.split(per_row[order], np.cumsum(np.bincount(of_row, minlength=batch.n_sequences))[:-1])
    if "advantage" in batch.sequences:
        whole = batch.sequences["advantage"].detach().double().cpu().tolist()
    else:
        whole = [float(rows.mean()) if len(rows) else 0.0 for rows in each]
    return {id(t.content): (value, rows) for t, value, rows in zip(batch.trajectories, whole, each)}
