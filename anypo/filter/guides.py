"""Which guided rollouts survive."""

from __future__ import annotations

from anypo.context import Context
from anypo.data.records import Group
from anypo.filter.base import Survival


class RightGuided(Survival, name="right_guided"):
    """Of the rollouts that were shown a guide only those stay that are right by the task's outcome, whatever else the task pays; the
    others are gone before any statistics of their group are taken (the reject sampling of ICPO, arXiv:2510.26519). Rollouts without a
    guide stay."""

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        members = [[t for t in g.trajectories if not t.extra.get("guide") or t.extra.get("right")] for g in groups]
        gone = sum(len(group.trajectories) - len(kept) for group, kept in zip(groups, members))
        helped = sum(bool(t.extra.get("guide")) for group in groups for t in group.trajectories)
        context.log("filter/guided_rejected", gone / max(1, helped))
        return [group.replace(trajectories=tuple(kept)) for group, kept in zip(groups, members) if kept]
