"""Rollouts that see a library from the run's shelf: methods that learn in words act with what they have learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Trajectory
from anypo.generate.base import Independent, World
from anypo.generate.conversation import Episode


class WithLibrary(Independent, name="with_library"):
    """Independent rollouts whose sampler sees the library `store` before the prompt; what is trained on is the plain prompt. It sees
    it when the method is scored, too. An empty library changes nothing, not even the random numbers."""

    provides = frozenset({"shown"})
    store: str = Field("lessons", description="name of the library on the shelf")
    introduction: str = "Lessons from earlier attempts at such problems. Read them before you answer."
    role: Literal["system", "user"] = Field("system", description="who says it (some chat templates know no system)")

    def required(self) -> frozenset[str]:
        return super().required() | {f"library:{self.store}"}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        shown = self.shown(world)
        groups = super().rollout([dataclasses.replace(ask, shown=(*shown, *ask.shown)) for ask in asks], world, context)
        saw = [bool(t.guidance) for group in groups for t in group.trajectories]
        context.log("generate/library_share", sum(saw) / max(1, len(saw)))
        return groups

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        shown = self.shown(world)
        seeing = [dataclasses.replace(e, shown=(*shown, *e.shown)) for e in episodes]
        return super().evaluate(seeing, world, temperature)

    def shown(self, world: World) -> tuple[dict[str, str], ...]:
        """The library as messages; none while it is empty or not there yet."""
        library = world.shelf.find(self.store)
        text = library.text() if library is not None else ""
        return ({"role": self.role, "content": f"{self.introduction}\n{text}"},) if text else ()
