"""One barrier a step: everything is produced, then everything is learned from."""

from __future__ import annotations

from typing import Any

from anypo.context import Context
from anypo.engine.pace.base import Pace


class Synchronous(Pace, name="synchronous"):
    """The step's rollouts are drained before any of them is trained on: what samples is never older than what is trained."""

    def run(self, producer: Any, consumer: Any, context: Context) -> None:
        producer.produce(context)
        consumer.learn(producer.kept, context)
        producer.observe(consumer.batch, context)
