"""Routing: which prompts learn from their own rollouts, and which from a demonstration."""

from __future__ import annotations

from anypo.context import Context
from anypo.data.records import DEMO, Group
from anypo.filter.base import Survival


class SuccessGate(Survival, name="success_gate"):
    """A prompt whose share of right rollouts is above `gate` keeps them and loses its demonstration; at or below it loses the
    rollouts and keeps the demonstration (HPT, arXiv:2509.04419). Prompts without a demonstration keep their rollouts.

    gate = 0: imitate exactly where every rollout failed and the group has no gradient; below 0: never; 1 or more: always.
    right: reward from which a rollout counts as right.
    """

    requires = frozenset({"demonstrations"})
    gate: float = 0.0
    right: float = 1.0

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        demos: dict[int, list[Group]] = {}
        for group in groups:
            if _is_demo(group):
                demos.setdefault(group.prompt, []).append(group)
        kept, taught = [], 0
        for group in groups:
            if _is_demo(group):
                continue
            waiting = demos.get(group.prompt)
            demo = waiting.pop(0) if waiting else None
            if demo is None or (group.rewards >= self.right - 1e-9).mean() > self.gate:
                kept.append(group)
            else:
                kept.append(demo)
                taught += 1
        context.log("filter/expert_share", taught / max(1, len(kept)))
        return kept


def _is_demo(group: Group) -> bool:
    return bool(group.trajectories) and all(t.guidance == DEMO for t in group.trajectories)
