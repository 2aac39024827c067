"""The producing half of the loop: control -> generate -> filter."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from anypo.algorithm import Algorithm
from anypo.context import Context
from anypo.control.visits import Visits
from anypo.data.batch import Batch
from anypo.data.records import FAILED, Group
from anypo.errors import UserError
from anypo.fits import Nets
from anypo.generate.base import World
from anypo.run.beside.witness import NOBODY, Witness
from anypo.run.record.timing import timed
from anypo.update.weights import Weights

PATIENCE = 8
"""Failed rollouts in a row after which a run stops."""


class Producer:
    """Asks for rollouts, has them proposed and screened. `fresh`: every group of this step, those a filter dropped included;
    `kept`: those that survived."""

    def __init__(self, algorithm: Algorithm, world: World, weights: Weights, witness: Witness = NOBODY) -> None:
        self.algorithm, self.world, self.weights, self.witness = algorithm, world, weights, witness
        self.visits = Visits()
        self.fresh: list[Group] = []
        self.kept: list[Group] = []
        self.failures = 0

    def produce(self, context: Context) -> None:
        """Generate and screen until the planned number of prompts survived or the rounds are used up."""
        control, screen = self.algorithm.control, self.algorithm.filter
        self.fresh = []
        kept: list[Group] = []
        context.world, context.nets = self.world, Nets(self.weights.learners)
        self.world.acting = lambda plan: self._acting(plan, context)
        forget = getattr(self.world.sampler, "forget", None)
        if forget is not None:
            forget()  # nothing cached outside this step may influence it: resuming must not change a bit
        for _ in range(screen.rounds):
            with timed("control", context):
                wanted = self.algorithm.generate.wants(control.prompts, control.prompts - len(kept), context)
                asks = control.choose(len(self.world.task), wanted, context) if wanted else []
            asks = self.visits.stamp(asks, self.world.problem)
            with timed("generate", context), self.world.acting({}):
                made = self.algorithm.generate.rollout(asks, self.world, context)
            with timed("filter", context):
                groups = screen.score(made, context)  # what control learns from and the metrics show, too
                survivors = screen.keep([group for group in groups if not group.aside], context)
            self.witness.screened(asks, made, groups, survivors, context)
            self.fresh += groups
            kept += survivors
            if len(kept) >= control.prompts:
                break
        context.log("filter/kept_share", len(kept) / max(1, len(self.fresh)))
        self._stop_if_all_fail()
        self.kept = kept[: control.prompts] if screen.rounds > 1 else kept
        context.world = None

    def _stop_if_all_fail(self) -> None:
        """Raise `UserError` once `PATIENCE` rollouts in a row failed, in whole steps: nothing is learned from an environment or a
        verifier that is broken."""
        made = [trajectory for group in self.fresh for trajectory in group.trajectories]
        self.failures = self.failures + len(made) if made and all(t.finish == FAILED for t in made) else 0
        if self.failures >= PATIENCE:
            why = made[-1].extra.get("failed") or "no reason is known"
            raise UserError(
                f"every one of the last {self.failures} rollouts of task '{self.world.task.name}' failed: {why}"
            )

    def _acting(self, plan: Any, context: Context) -> AbstractContextManager[None]:
        """The policy with the parameters that sample for asks with this plan (the trained ones unless the update says otherwise)."""
        return self.weights.swapped(self.algorithm.update.acting(self.weights, plan, context))

    def aside(self) -> list[Group]:
        """What was made in this step and is not in `kept`: attempts that others were put in the place of, and what a filter dropped,
        whole groups or single rollouts."""
        kept = {id(trajectory.content) for group in self.kept for trajectory in group.trajectories}
        left = [
            group.replace(trajectories=tuple(t for t in group.trajectories if id(t.content) not in kept))
            for group in self.fresh
        ]
        return [group for group in left if group.trajectories]

    def observe(self, batch: Batch, context: Context) -> None:
        """Let control learn from the step: from what was scored, whether it survived or not."""
        context.world = self.world
        with timed("control", context):
            scored = [group.scored() for group in self.fresh]
            self.algorithm.control.observe([group for group in scored if group.trajectories], batch, context)
        context.world = None
