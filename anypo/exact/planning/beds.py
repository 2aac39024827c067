"""Families of processes with an uncertain parameter."""

from __future__ import annotations

import torch
from pydantic import Field, ValidationInfo, field_validator

from anypo.exact.mdp import TabularMDP
from anypo.exact.planning.base import Bed


class WindyWalk(Bed, name="windy_walk"):
    """Corridors of `lengths` cells from a start to a goal, every step costs 1. Under wind alpha a step forward in corridor k is
    blown back to the start with probability alpha^(powers[k]): the short way is the windy one. Models: `grid` values of alpha from
    0 (nominal) to `strongest`. In this project's layout; the exponents and the grid are those of Zouitine et al. (arXiv:2410.06212).

    The actions at the start choose a corridor; inside one the first goes on and the others wait.
    """

    lengths: tuple[int, ...] = Field((3, 4, 5), min_length=1)
    powers: tuple[float, ...] = Field((1.0, 3.0, 6.0), min_length=1)
    strongest: float = Field(0.5, gt=0.0, le=1.0)
    grid: int = Field(25, ge=2)
    discount: float = Field(0.99, gt=0.0, lt=1.0)

    @field_validator("powers")
    @classmethod
    def _matching(cls, powers: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        lengths = info.data.get("lengths", ())
        if len(lengths) != len(powers) or min(lengths, default=0) < 1 or min(powers) < 0:
            raise ValueError(
                f"every corridor needs a length of at least 1 and a power of at least 0; lengths = {lengths}"
            )
        return powers

    def models(self) -> list[TabularMDP]:
        alphas = torch.linspace(0.0, self.strongest, self.grid, dtype=torch.float64)
        return [self.model(float(alpha)) for alpha in alphas]

    def model(self, alpha: float) -> TabularMDP:
        """The walk under one wind."""
        corridors, states = len(self.lengths), sum(self.lengths) + 2
        goal = states - 1
        flow = torch.zeros(states, corridors, states, dtype=torch.float64)
        flow[goal, :, goal] = 1.0
        first = 1
        for k, (length, power) in enumerate(zip(self.lengths, self.powers)):
            flow[0, k, first] = 1.0
            wind = alpha**power
            for cell in range(first, first + length):
                flow[cell, 0, cell + 1 if cell + 1 < first + length else goal] = 1.0 - wind
                flow[cell, 0, 0] += wind
                flow[cell, 1:, cell] = 1.0
            first += length
        rewards = torch.full((states, corridors), -1.0, dtype=torch.float64)
        rewards[goal] = 0.0
        start = torch.zeros(states, dtype=torch.float64)
        start[0] = 1.0
        return TabularMDP(flow, rewards, start, self.discount)

    def states(self) -> list[str]:
        cells = [f"corridor {k + 1}, cell {c + 1}" for k, length in enumerate(self.lengths) for c in range(length)]
        return ["start", *cells, "goal"]

    def actions(self) -> list[str]:
        return [f"{k + 1} / {'on' if k == 0 else 'wait'}" for k in range(len(self.lengths))]
