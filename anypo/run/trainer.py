"""The loop: control -> generate -> filter -> replay -> credit -> objective -> update, and back to control.

The loop knows the rooms and nothing else: every decision is a part's. It has two halves, the producer (control, generate,
filter) and the consumer (replay, credit, objective, update); the engine's pace says how they take turns. A run is a pure
function of (algorithm, weights, task, seed): rollouts are keyed by seed, prompt, visit (how often it was asked for before),
sample and position, everything else by seed, step and ids, so a run resumed from a checkpoint ends where the uninterrupted one
does.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.generate.base import World
from anypo.run.beside import NOBODY
from anypo.run.beside import beside as base_of
from anypo.run.consumer import Consumer
from anypo.run.producer import Producer
from anypo.run.record.metrics import describe
from anypo.run.trial import Trials
from anypo.update.weights import Weights


class Trainer:
    """One run of one algorithm in one world. beside: measure its distance from its base (`anypo.run.beside`)."""

    def __init__(self, algorithm: Algorithm, world: World, seed: int, total: int, beside: bool = False) -> None:
        plain = algorithm.dump()  # every part its own object: memory is keyed by it
        self.algorithm = Algorithm.from_dict(plain).check()
        self.world, self.seed, self.total = world, seed, total
        self.memory = Memory(self.algorithm)
        self.world.shelf, self.world.trial = self.memory.shelf, Trials(self)
        self.weights = Weights(self.algorithm, world.policy, seed, world.sampler.exact, models=world.models)
        self.witness = base_of(self.algorithm, self.weights) if beside else NOBODY
        self.weights.witness = self.witness.pulled
        self.producer = Producer(self.algorithm, world, self.weights, self.witness)
        self.consumer = Consumer(self.algorithm, world, self.weights, self.witness)
        self.number = 0
        self.hooks: dict[str, float] = {}

    @property
    def groups(self) -> list[Group]:
        """What the last step trained on, before replay."""
        return self.producer.kept

    @property
    def aside(self) -> list[Group]:
        """What was made for the last step and not trained on."""
        return self.producer.aside()

    @property
    def batch(self) -> Batch:
        """The last update batch, as credit left it."""
        return self.consumer.batch

    def step(self) -> dict[str, float]:
        """One turn of the loop; returns the step's metrics. `groups` and `batch` hold what it worked on."""
        context = Context(self.number, self.total, self.seed, self.memory, hooks=dict(self.hooks))
        self.hooks.clear()
        began, version, before = time.perf_counter(), self.world.policy.version, self._drawn()
        self.algorithm.engine.pace.run(self.producer, self.consumer, context)
        self.witness.ended(self.producer.fresh, context)
        self.hooks = {name: value for name, value in context.hooks.items() if name == "temperature"}
        describe(self.producer.fresh, context, self.world.task.outcome, self._drawn() - before)
        context.log("update/steps", float(self.world.policy.version - version))
        context.log("time/step", time.perf_counter() - began)
        self.number += 1
        return {"step": self.number, **context.metrics.values()}

    def _drawn(self) -> float:
        """Decisions drawn so far; nan where nobody counts them."""
        tally = None if self.algorithm.generate.by_itself else getattr(self.world.sampler, "tally", None)
        return math.nan if tally is None else float(tally.drawn)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.number,
            "hooks": dict(self.hooks),
            "memory": self.memory.state_dict(),
            "world": self.world.state_dict(),
            "visits": self.producer.visits.state_dict(),
            "weights": self.weights.state_dict(),
            "beside": self.witness.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.hooks = state["step"], dict(state["hooks"])
        self.memory.load_state_dict(state["memory"])
        self.world.load_state_dict(state["world"])
        self.producer.visits.load_state_dict(state["visits"])
        self.weights.load_state_dict(state["weights"])
        self.witness.load_state_dict(state.get("beside", {}))
        torch.set_rng_state(state["torch_rng"])
