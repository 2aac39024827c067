"""The parts of the rooms where rollouts are made, as options of their own beside ``--set``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

PART = "PART[:FIELD=VALUE,…]"
Control = Annotated[str | None, typer.Option("--control", metavar=PART, help="which prompts, how often: thompson, ...")]
Generate = Annotated[
    str | None, typer.Option("--generate", metavar=PART, help="how answers come about: doubling_tree, ...")
]
Filter = Annotated[
    list[str], typer.Option("--filter", metavar=PART, help="what is scored and kept: drop_degenerate, ... (repeat)")
]
Replay = Annotated[str | None, typer.Option("--replay", metavar=PART, help="what is trained on: recent_groups, ...")]


def rooms(control: str | None, generate: str | None, filter_: Sequence[str], replay: str | None) -> dict[str, Any]:
    """What ``--control``, ``--generate``, ``--filter`` and ``--replay`` change of a method, as ``--set`` would say it. The filters
    named are all there are: each goes to the signals or the survivals of the screen, where parts of its kind belong."""
    chosen = {"control": control, "generate": generate, "replay": replay}
    changes: dict[str, Any] = {room: _part(text, f"--{room}") for room, text in chosen.items() if text is not None}
    if filter_:
        from anypo.cli.names.index import index
        from anypo.errors import unknown

        known = index()["parts"]
        for text in filter_:
            part = _part(text, "--filter")
            lists = [f"filter.{to}" for slot, to in SCREEN.items() if part["part"] in known[slot]]
            if not lists:
                raise unknown("filter", part["part"], [name for slot in SCREEN for name in known[slot]])
            changes.setdefault(lists[0], []).append(part)
    return changes


SCREEN = {"signal": "signals", "survival": "survival"}
"""The lists of a screen and the slots of their parts."""


def _part(text: str, option: str) -> dict[str, Any]:
    """``NAME:FIELD=VALUE,…`` as a mapping with the part's name."""
    from anypo.cli.options import valued
    from anypo.errors import UserError, cut

    name, _, fields = text.partition(":")
    written = re.sub(r"(^|,)\s*([\w.]+)=", r"\1 \2: ", fields)
    own = valued("{" + written + "}", option) if fields.strip() else {}
    if not name.strip() or not isinstance(own, dict) or None in own.values():
        raise UserError(f"{option} takes {PART}, not '{cut(text)}'")
    return {"part": name.strip(), **own}
