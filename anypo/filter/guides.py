"""Which guided rollouts survive."""

from __future__ import annotations

from pydantic import Field

from anypo.context import Context
from anypo.data.records import Group
from anypo.filter.base import Survival


class RightGuided(Survival, name="right_guided"):
    """Of the rollouts that were shown a guide only those stay whose reward is at least `right`; the others are gone before any
    statistics of their group are taken (the reject sampling of ICPO, arXiv:2510.26519). Rollouts without a guide stay."""

    right: float = Field(1.0)

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        members = [
            [t for t in g.trajectories if not t.extra.get("guide") or t.reward >= self.right - 1e-9] for g in groups
        ]
        gone = sum(len(group.trajectories) - len(kept) for group, kept in zip(groups, members))
        helped = sum(bool(t.extra.get("guide")) for group in groups for t in group.trajectories)
        context.log("filter/guided_rejected", gone / max(1, helped))
        return [group.replace(trajectories=tuple(kept)) for group, kept in zip(groups, members) if kept]
