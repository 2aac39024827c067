"""What the next turn sees: the conversation as it grew, or a context made anew.

A context that is made anew begins another trajectory, since a trajectory is one sequence of tokens that grew by appending. The
trajectories of one episode carry the key ``episode`` (the rollout's number in its group), their decisions the turn they were made in
(counted through the episode), and every one of them the rewards of the whole episode, so that credit can group and discount them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from anypo.data.content import Message
from anypo.parts import Part


@dataclass(frozen=True)
class Turn:
    """One past turn: what the policy said (with what was appended to it meanwhile), and what was shown after it."""

    said: str
    shown: tuple[Message, ...]


class Workspace(Part, slot="workspace"):
    """Decides what the next turn sees, from the opening and the turns so far (at least one)."""

    def context(self, opening: Sequence[Message], past: Sequence[Turn]) -> tuple[Message, ...] | None:
        """The messages that the next turn begins with; None: the last turn's messages are appended to what there is."""
        raise NotImplementedError


class Accumulate(Workspace, name="accumulate"):
    """Everything: a conversation grows by appending, and an episode is one trajectory."""

    def context(self, opening: Sequence[Message], past: Sequence[Turn]) -> tuple[Message, ...] | None:
        return None


class Rebuild(Workspace, name="rebuild"):
    """The opening and what the environment showed last, nothing else: what is to be kept (a report that evolves, notes) the
    environment puts into its messages (the workspace of IterResearch, arXiv:2511.07327). Every turn is a trajectory."""

    def context(self, opening: Sequence[Message], past: Sequence[Turn]) -> tuple[Message, ...] | None:
        return (*opening, *past[-1].shown)


class Window(Workspace, name="window"):
    """The opening and the last `turns` turns. While there are no more than these, the conversation grows by appending; then every
    turn is a trajectory of its own, in which the earlier turns are context."""

    turns: int = Field(4, ge=1, description="turns kept")

    def context(self, opening: Sequence[Message], past: Sequence[Turn]) -> tuple[Message, ...] | None:
        if len(past) <= self.turns:
            return None
        kept: list[Any] = []
        for turn in past[-self.turns :]:
            kept += [{"role": "assistant", "content": turn.said}, *turn.shown]
        return (*opening, *kept)
