"""No rollouts: for methods whose data was written before the run."""

from __future__ import annotations

from collections.abc import Sequence

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import Generate, World


class Nothing(Generate, name="nothing"):
    """Proposes nothing; what is trained on is the replay room's matter. When the policy is scored it answers as any other
    (`max_new`, `turns`, `stop`)."""

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        return []
