"""Who teaches: the context it sees and the weights it has, for every objective that learns from another distribution."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from anypo.column import OLD, Column
from anypo.data.batch import Batch
from anypo.errors import unknown
from anypo.objective.aggregates import TokenMean
from anypo.objective.base import Aggregate, Objective
from anypo.policies.views import Privileged, View


class _Taught(Objective):
    """view: what the teacher sees before the policy's own tokens. source: whose weights it has: ``ref`` (the reference that
    `update.reference` keeps: frozen, a moving average, ...), ``old`` (the policy's own at the start of the update), the name of
    another reference, or the role of another model."""

    view: View = Privileged()
    source: str = Field("ref", description="whose weights teach: a reference's name, old, or a model's role")
    aggregate: Aggregate = TokenMean()
    provides = frozenset({"unrewarded"})

    def taught(self, stat: str) -> str:
        """The column of a statistic at the teacher."""
        return str(Column(stat, self.view.view, self.source))

    def refuse(self, algorithm: Any) -> str | None:
        keepers = [keeper for keeper in algorithm.update.keepers() if "reference" in keeper.provided()]
        casts = {cast.role: cast for cast in algorithm.models}
        if self.source in casts:
            able = f"model:{self.source}:fill" in casts[self.source].provided()
            return (
                None if able else f"the {self.source} ({casts[self.source].model}) cannot score tokens; give it weights"
            )
        known = {OLD, *(keeper.name for keeper in keepers)}
        if self.source in known:
            return None
        if self.source == "ref":
            return "its teacher has the weights 'ref', which nobody keeps; --set update.reference=frozen, or objective.source=old"
        return str(unknown("source of weights", self.source, {*known, *casts}))

    def shown_share(self, batch: Batch) -> float:
        """Share of the trajectories whose teacher sees another context than the policy."""
        contents = batch.views.get(self.view.view, ())
        return sum(content is not None for content in contents) / max(1, len(contents))
