"""The learning half of the loop: replay -> credit -> objective -> update."""

from __future__ import annotations

from collections.abc import Iterator

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.generate.base import World
from anypo.run.beside.witness import NOBODY, Witness
from anypo.run.record.metrics import fit
from anypo.run.record.timing import timed
from anypo.update.weights import Weights


class Consumer:
    """Turns what was produced into changes of the weights. `batch`: the last one of the step, as credit left it."""

    def __init__(self, algorithm: Algorithm, world: World, weights: Weights, witness: Witness = NOBODY) -> None:
        self.algorithm, self.world, self.weights, self.witness = algorithm, world, weights, witness
        self.batch = Batch.pack([])

    def learn(self, groups: list[Group], context: Context) -> None:
        """Every update of this step. Batches are drawn one by one: each is applied before the next is chosen."""
        self.batch = Batch.pack([])
        context.add("tokens/trained", 0.0)
        batches = self.algorithm.replay.batches(groups, self.weights.policy.version, context)
        while (batch := self._draw(batches, context)) is not None:
            if len(batch):
                with timed("columns", context):
                    before = self.witness.prepared(self.weights.prepare(batch, context))
                fit(before, self.weights.policy.version, context)
                with timed("credit", context):
                    batch = self.algorithm.credit.assign(before, context)
                self.witness.credited(before, batch, context)
                with timed("update", context):
                    batch = self.algorithm.update.apply(batch, self.weights, context)
            self.batch = batch
            context.add("tokens/trained", float(batch.weight.sum()))

    def _draw(self, batches: Iterator[Batch], context: Context) -> Batch | None:
        context.world = self.world
        with timed("replay", context):
            batch = next(batches, None)
        context.world = None
        return batch
