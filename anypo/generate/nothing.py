"""No rollouts: for methods whose data was written before the run."""

from __future__ import annotations

from collections.abc import Sequence

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Trajectory
from anypo.generate.act import Own
from anypo.generate.base import Generate, World
from anypo.generate.conversation import Episode
from anypo.generate.worlds.steps import scored_episodes


class Nothing(Generate, name="nothing"):
    """Proposes nothing; what is trained on is the replay room's matter. When the policy is scored it answers as any other
    (`max_new`, `turns`, `stop`), or acts in the task's environment."""

    conversational = False

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        return []

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0) -> list[Trajectory]:
        if hasattr(world.task, "make"):
            return scored_episodes(episodes, world, Own(), temperature)
        return super().evaluate(episodes, world, temperature)
