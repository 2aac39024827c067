"""Rollouts that only say how hard things are."""

from __future__ import annotations

from anypo.context import Context
from anypo.data.prompts import REFERENCES
from anypo.data.records import Group
from anypo.filter.base import Survival


class SetAside(Survival, name="set_aside"):
    """Drops the groups that control asked for as references, and notes their mean rewards where control finds them (the store
    ``references`` on the run's shelf). A reference that is asked for again as a prompt stays."""

    provides = frozenset({"references"})

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        store = context.memory.shelf.find(REFERENCES) or {"prompts": [], "rates": {}}
        wanted = set(store["prompts"]) - store["rates"].keys()
        for group in groups:
            if group.prompt in wanted and group.trajectories:
                store["rates"][group.prompt] = float(group.rewards.mean())
        return [group for group in groups if group.prompt not in wanted]
