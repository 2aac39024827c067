"""Difficulty read off a few problems that are rolled out for this alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.data.batch import Batch
from anypo.data.prompts import REFERENCES
from anypo.data.records import Group
from anypo.data.tokens import WIDTH, hashed
from anypo.outlook import Outlook

PREDICTOR = "reference_predictor"
"""Where the predictor lies on the run's shelf."""

EDGE = 1e-4
"""Least distance of a rate from 0 and 1 before its logit is taken."""


class Attention(nn.Module):
    """Success rates of problems from those of references, by attention over their words (arXiv:2506.05316).

    d = softmax_i( <Q e, P e_i> / root(h) / heat ) . rates, then sigmoid( logit(d) / t + b ), where t in [0.01, 10] and b in (-1, 1)
    are functions of the references' mean rate and standard deviation.
    """

    def __init__(self, dim: int = 16, heat: float = 0.25, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(WIDTH, dim, generator=generator)  # both the same: what is alike attends to each other
        self.query, self.key, self.heat = nn.Parameter(first.clone()), nn.Parameter(first.clone()), heat
        last = nn.Linear(10, 2)
        self.calibrate = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), last)
        with torch.no_grad():
            for parameter in self.calibrate.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            last.weight.zero_()
            last.bias.copy_(torch.tensor([math.log(math.e - 1), 0.0]))  # t = 1, b = 0: nothing is changed

    def mixed(self, queries: Tensor, references: Tensor, rates: Tensor, itself: bool = True) -> Tensor:
        """d of every query [Q, WIDTH] from references [R, WIDTH] with these rates [R], [Q]. itself: whether query i may attend to
        reference i (they are the same problems where it may not)."""
        scores = (queries @ self.query) @ (references @ self.key).T / math.sqrt(self.query.shape[1]) / self.heat
        if not itself:
            scores = scores.masked_fill(torch.eye(len(queries), dtype=torch.bool), -torch.inf)
        return scores.softmax(1) @ rates

    def forward(self, queries: Tensor, references: Tensor, rates: Tensor, itself: bool = True) -> Tensor:
        mixed = self.mixed(queries, references, rates, itself).clamp(EDGE, 1 - EDGE)
        a, b = self.calibrate(torch.stack([rates.mean(), rates.std(correction=0)]))
        return torch.sigmoid(torch.logit(mixed) / F.softplus(a).clamp(0.01, 10.0) + torch.tanh(b))


class Predictor:
    """The attention with its optimiser."""

    def __init__(self, lr: float) -> None:
        self.model = Attention()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=lr)

    @torch.no_grad()
    def predict(self, queries: Tensor, references: Tensor, rates: Tensor) -> Tensor:
        """Rates of the queries, after an affine least-squares fit of what is predicted of the references to what they did, [Q]."""
        slope, offset = affine(self.model(references, references, rates), rates)
        return (slope * self.model(queries, references, rates) + offset).clamp(0.0, 1.0)

    def learn(self, queries: Tensor, seen: Tensor, references: Tensor, rates: Tensor, updates: int) -> None:
        """Steps on the cross-entropy of what was seen of the queries, and of every reference given the others."""
        for _ in range(updates):
            loss = F.binary_cross_entropy(self.model(queries, references, rates), seen, reduction="sum")
            if len(references) > 1:
                alone = self.model(references, references, rates, itself=False)
                loss = loss + F.binary_cross_entropy(alone, rates, reduction="sum")
            self.optimiser.zero_grad()
            (loss / max(1, len(queries) + len(references))).backward()
            self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def affine(predicted: Tensor, seen: Tensor) -> tuple[float, float]:
    """Slope and offset of the least-squares line from predicted to seen, which is level where all predictions are equal."""
    centred = predicted - predicted.mean()
    variance = float((centred**2).sum())
    slope = float((centred * (seen - seen.mean())).sum()) / variance if variance > 1e-12 else 0.0
    return slope, float(seen.mean()) - slope * float(predicted.mean())


class ReferencedDifficulty(Uniform, name="referenced"):
    """Every `cycle` steps some `references` drawn evenly are rolled out and not trained on; from what the policy did on them, an
    attention over words predicts its success on `candidates` other problems, and the prompts of the cycle are drawn without
    replacement with probability proportional to exp(-|prediction - `target`| / `heat`) (DOTS, arXiv:2506.05316).

    The predictor learns as the run goes, from what it said of the prompts of each step, and of each reference given the others.
    A step costs (prompts + references / cycle) x samples rollouts; the filter ``set_aside`` keeps the references out of training
    and needs a second round, in which the prompts are chosen. Problems whose words nobody can read are drawn evenly.
    """

    references: int = Field(8, ge=2)
    cycle: int = Field(2, ge=1, description="steps that one set of references serves")
    target: float = Field(0.5, ge=0.0, le=1.0)
    heat: float = Field(1e-3, gt=0.0)
    candidates: int = Field(1024, ge=1)
    lr: float = Field(3e-3, ge=0.0)
    updates: int = Field(8, ge=0, description="steps of the predictor after each step of the policy")

    requires = frozenset({"references"})

    def start(self) -> dict[str, Any]:
        return {"cursor": 0, "asked": -1, "chosen": -1, "indices": [], "words": {}, "queue": [], "expected": {}}

    def stores(self) -> dict[str, Any]:
        return {REFERENCES: {"prompts": [], "rates": {}}, PREDICTOR: Predictor(self.lr)}

    def refuse(self, algorithm: Any) -> str | None:
        if algorithm.filter.rounds < 2:
            return "prompts are chosen after the references have been rolled out; set filter.rounds=2"
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.problems and self.pool(outlook.problems, outlook.steps) <= self.cycle * self.prompts:
            return f"{outlook.problems} problems for {self.cycle * self.prompts} prompts a cycle leave no choice; set control.cycle=1"
        return None

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, pool, number = context.memory[self], self.pool(problems, context.total), context.step // self.cycle
        if memory["asked"] != number:
            return self._ask_references(pool, number, context)
        if memory["chosen"] != number:
            memory["chosen"], memory["queue"] = number, self._select(pool, self.cycle * count, number, context)
        if len(memory["queue"]) < count:  # a filter wants more than a cycle has
            return super().choose(problems, count, context)
        taken, memory["queue"] = memory["queue"][:count], memory["queue"][count:]
        expected = [memory["expected"][index] for index in taken if index in memory["expected"]]
        if expected:
            context.log("control/expected_success", float(np.mean(expected)))
        return [Ask(index, self.samples) for index in taken]

    def _ask_references(self, pool: int, number: int, context: Context) -> list[Ask]:
        memory, store, world = context.memory[self], context.memory.shelf.find(REFERENCES), context.world
        drawn = np.random.default_rng([context.seed, number, 67]).permutation(pool)[: self.references].tolist()
        asks = [Ask(index, self.samples) for index in drawn]
        memory["asked"], memory["indices"], memory["words"], memory["expected"] = number, drawn, {}, {}
        store["prompts"], store["rates"] = [world.problem(ask).prompt for ask in asks], {}
        context.add("control/reference_rollouts", float(len(asks) * self.samples))
        return asks

    def _select(self, pool: int, count: int, number: int, context: Context) -> list[int]:
        """The problems of a cycle, in the order in which they are asked for."""
        memory, rng = context.memory[self], np.random.default_rng([context.seed, number, 71])
        among = rng.permutation(pool)[: max(count, self.candidates)]
        known = self._references(context)
        closeness = np.zeros(len(among))
        if known is not None:
            predicted = context.memory.shelf.find(PREDICTOR).predict(self._read(among, context), *known).numpy()
            closeness = -np.abs(predicted - self.target) / self.heat
            memory["expected"] = dict(zip(among.tolist(), predicted.tolist()))
        chosen = np.argsort(-(closeness + rng.gumbel(size=len(among))), kind="stable")[:count]
        memory["words"] = {int(i): memory["words"][int(i)] for i in (*among[chosen], *memory["indices"]) if known}
        return rng.permutation(np.resize(among[chosen], count)).tolist()  # type: ignore[no-any-return]

    def _references(self, context: Context) -> tuple[Tensor, Tensor] | None:
        """Words [R, WIDTH] and success rates [R] of the references whose rollouts came back; None where nobody can read them."""
        memory, store, world = context.memory[self], context.memory.shelf.find(REFERENCES), context.world
        pairs = [(i, store["rates"][p]) for i, p in zip(memory["indices"], store["prompts"]) if p in store["rates"]]
        if not pairs or (world is not None and not hasattr(world.policy, "encode")):
            return None
        words = self._read([i for i, _ in pairs], context)
        return words, torch.tensor([rate for _, rate in pairs], dtype=torch.float32).clamp(0, 1)

    def _read(self, indices: Sequence[int] | np.ndarray, context: Context) -> Tensor:
        """Words of problems, [P, WIDTH]; those of this cycle are read once."""
        words, world = context.memory[self]["words"], context.world
        for index in map(int, indices):
            if index not in words:
                words[index] = hashed(world.policy.encode(world.problem(Ask(index, 1)).messages))
        return torch.from_numpy(np.stack([words[int(index)] for index in indices]))

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        memory = context.memory[self]
        fresh = {g.index: float(np.clip(g.rewards.mean(), 0, 1)) for g in groups if g.index in memory["expected"]}
        known = self._references(context)
        if known is None or not fresh:
            return
        gaps = [abs(memory["expected"][index] - seen) for index, seen in fresh.items()]
        context.log("control/prediction_error", float(np.mean(gaps)))
        seen = torch.tensor(list(fresh.values()), dtype=torch.float32)
        context.memory.shelf.find(PREDICTOR).learn(self._read(list(fresh), context), seen, *known, self.updates)


__all__ = ["Attention", "Predictor", "ReferencedDifficulty", "affine"]
