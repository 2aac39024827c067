"""Evolution: a population of parameter vectors, kept as the seeds that made them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.update.base import Update
from anypo.update.direct.vectors import assign, shaped

if TYPE_CHECKING:
    from anypo.update.weights import Weights

ELITE = 0
"""The member that is the elite, unmutated, from the second generation on."""

CANDIDATES = "tag/candidate"
"""The sequence column that says which episodes only judge candidates for the elite."""


class Truncation(Update, name="truncation"):
    """A genetic algorithm with truncation selection and no crossover (Such et al., "Deep Neuroevolution", arXiv:1712.06567).

    Generation 0: theta = scale * eps, scale 1 / sqrt(fan in) for every matrix, `output` times that for the last one, 0 for biases;
    the policy's own initial weights are not used. After each generation the `parents` fittest members, by mean return over their
    episodes, are the next parents: theta' = theta + sigma * eps, eps ~ N(0, I) over all parameters, of a parent drawn uniformly.
    The elite becomes the policy and, with `elite`, member 0 of the next generation, judged again on new episodes: the best of those
    that played further episodes as candidates (`generate.candidates`), by these alone; without such the fittest of all. An elite
    that is not among the parents takes the place of the last of them. Only ranks count; ties go to the lower member, so an
    elite that does as well stays.

    A member is the list of the seeds that made it, one per generation; vectors are made anew from the list whenever needed, so
    memory does not grow with the network. `parents` 0 is random search: every member of every generation is drawn afresh.
    """

    requires = frozenset({"key:member"})
    provides = frozenset({"fitness"})

    parents: int = Field(10, ge=0, description="fittest members that have offspring; 0: random search")
    sigma: float = Field(0.05, ge=0.0, description="mutation power")
    output: float = Field(0.1, gt=0.0, description="factor on the initial scale of the last matrix")
    elite: bool = Field(True, description="the fittest member lives on unmutated")

    def start(self) -> dict[str, Any]:
        return {"generation": 0, "parents": [], "elite": []}

    def acting(
        self, weights: Weights, plan: Mapping[str, int | float | str], context: Context
    ) -> Mapping[str, Tensor] | None:
        if "member" not in plan:
            return None
        return shaped(weights.policy, self.decode(weights.policy, self.seeds(int(plan["member"]), context)))

    def seeds(self, member: int, context: Context) -> list[int]:
        """The seeds of a member of the present generation, oldest first."""
        memory = context.memory[self]
        if self.elite and member == ELITE and memory["elite"]:
            return list(memory["elite"])
        key = np.random.SeedSequence([context.seed, memory["generation"], member, 71])
        own, draw = (int(number) >> 1 for number in key.generate_state(2, np.uint64))
        parents: Sequence[list[int]] = memory["parents"]
        return [*parents[draw % len(parents)], own] if parents else [own]

    @torch.no_grad()
    def decode(self, policy: Any, seeds: Sequence[int]) -> Tensor:
        """The parameter vector [P] that a list of seeds stands for."""
        scale = self.scales(policy)
        theta = scale * _noise(seeds[0], scale)
        for seed in seeds[1:]:
            theta += self.sigma * _noise(seed, scale)
        return theta

    def scales(self, policy: Any) -> Tensor:
        """Standard deviation of every initial parameter, [P]."""
        parameters = list(policy.parameters())
        last = max((n for n, p in enumerate(parameters) if p.ndim > 1), default=-1)
        return torch.cat([self._scale(p, n == last) for n, p in enumerate(parameters)])

    def _scale(self, parameter: Tensor, last: bool) -> Tensor:
        if parameter.ndim < 2:
            return torch.zeros_like(parameter.detach()).flatten()
        deviation = (self.output if last else 1.0) / math.sqrt(parameter[0].numel())
        return torch.full_like(parameter.detach(), deviation).flatten()

    @torch.no_grad()
    def apply(self, batch: Batch, weights: Weights, context: Context) -> Batch:
        further = batch.sequences.get(CANDIDATES, torch.zeros(batch.n_sequences, dtype=torch.bool))
        members, fitness = fitness_of(batch, ~further)
        order = sorted(range(len(members)), key=lambda place: (-fitness[place], members[place]))
        ranked = [self.seeds(members[place], context) for place in order]
        elite = self.seeds(_best(*fitness_of(batch, further)), context) if bool(further.any()) else ranked[0]
        parents = ranked[: self.parents]
        if parents and elite not in parents:
            parents = [elite, *parents[:-1]]
        memory = context.memory[self]
        memory["parents"], memory["elite"] = parents, elite
        memory["generation"] += 1
        assign(weights.policy, self.decode(weights.policy, elite))
        weights.moved(context)
        weights.steps += 1
        context.log("update/fitness", float(np.mean(fitness)))
        context.log("update/fitness_best", fitness[order[0]])
        context.log("update/mutations", len(elite) - 1)
        return batch


def fitness_of(batch: Batch, which: Tensor | None = None) -> tuple[list[int], list[float]]:
    """The members in a batch, in order, and the mean reward of each over the sequences `which` (bool [S]; all when absent); a reward
    that is not a number counts as minus infinity."""
    which = torch.ones(batch.n_sequences, dtype=torch.bool) if which is None else which
    members, place = torch.unique(batch.sequences["key/member"][which], return_inverse=True)
    reward = batch.sequences["reward"][which].double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return members.tolist(), segments.mean(reward, place, len(members)).tolist()


def _best(members: Sequence[int], fitness: Sequence[float]) -> int:
    return min(zip(members, fitness), key=lambda found: (-found[1], found[0]))[0]


def _noise(seed: int, like: Tensor) -> Tensor:
    """N(0, I) of the shape of `like`, a function of the seed alone: drawn on the CPU, the same on every device."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return drawn.to(like)
