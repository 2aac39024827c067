"""The pace of a run: what happens between the two halves of the loop."""

from __future__ import annotations

from typing import Any

from anypo.context import Context
from anypo.parts import Part


class Pace(Part, slot="pace"):
    """Joins the producer (control -> generate -> filter) and the consumer (replay -> credit -> objective -> update)."""

    def run(self, producer: Any, consumer: Any, context: Context) -> None:
        """One step of the run: whatever is produced (`anypo.run.producer.Producer`) and learned from (`anypo.run.consumer.Consumer`)
        before the step's metrics are written."""
        raise NotImplementedError
