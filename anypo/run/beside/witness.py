"""Who is shown what the two halves of the loop do, and changes none of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.update.pulls import Pull


class Witness:
    """Sees a step go by. This one looks away."""

    def screened(
        self,
        asks: Sequence[Ask],
        made: Sequence[Group],
        scored: Sequence[Group],
        kept: Sequence[Group],
        context: Context,
    ) -> None:
        """A round of the producer: what control asked, generate made, filter scored and kept."""

    def prepared(self, batch: Batch) -> Batch:
        """An update batch before credit; returns it as credit is to have it."""
        return batch

    def credited(self, before: Batch, after: Batch, context: Context) -> None:
        """The same batch before and after credit."""

    def pulled(self, pull: Pull, context: Context) -> None:
        """What one optimiser step's loss says about the columns."""

    def ended(self, groups: Sequence[Group], context: Context) -> None:
        """The step is over; `groups`: everything it made."""

    @property
    def said(self) -> dict[str, str]:
        """What goes with the metrics of a step in words."""
        return {}

    @property
    def parts(self) -> list[str]:
        """Paths of the run's parts that are also tried as the base has them, one at a time."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as `state_dict` said."""


NOBODY = Witness()
