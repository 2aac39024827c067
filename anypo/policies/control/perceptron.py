"""Perceptrons with seeded weights: one network, or an ensemble whose members are computed in one product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Standard(nn.Module):
    """x -> (x - mean) / (std + 1e-3), the statistics of recorded observations, fixed once they are taken (arXiv:2106.06860)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def take(self, observations: Tensor) -> None:
        """The statistics of observations [n, size]."""
        exact = observations.double()
        self.mean.copy_(exact.mean(0))
        self.scale.copy_(exact.std(0, unbiased=False) + 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Perceptron(nn.Module):
    """`members` networks of the same shape side by side, ReLU between the layers, initialised like `torch.nn.Linear` (uniform in
    +-1/sqrt(inputs)) from `seed`.

    Weights are [members, inputs, outputs]: an ensemble is one batched product, not a loop.
    """

    def __init__(self, sizes: Sequence[int], members: int = 1, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for below, above in pairwise(sizes):
            bound = 1 / math.sqrt(below)
            draw = lambda *shape, bound=bound: (2 * torch.rand(shape, generator=generator) - 1) * bound
            self.weights.append(nn.Parameter(draw(members, below, above)))
            self.biases.append(nn.Parameter(draw(members, 1, above)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [members, N, outputs] for inputs [N, inputs]; without the first dimension for a single network."""
        # a list of parameters looks each up by its name in every pass
        layers: list[Any] = list(zip(self.weights._parameters.values(), self.biases._parameters.values()))
        members = layers[0][0].shape[0]
        if members == 1:
            for depth, (weight, bias) in enumerate(layers):
                x = torch.addmm(bias[0], x if not depth else torch.relu(x), weight[0])
            return x
        out = x.expand(members, *x.shape)
        for depth, (weight, bias) in enumerate(layers):
            out = torch.baddbmm(bias, out if not depth else torch.relu(out), weight)
        return out
