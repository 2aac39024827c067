"""Fits: who is stepped, on which loss, in which order, how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from anypo.data.batch import Batch

POLICY = "policy"
"""The name of the policy among the learners; the others are named by the path of the part that owns them."""


@dataclass(frozen=True)
class Fit:
    """One loss and the learner it moves.

    loss: a function of an update batch's live columns and the context, a scalar. learner: "" is the learner of the part that
    states the fit, ``policy`` the policy, else the path of the part that owns it.
    when: ``before_credit`` steps it before its columns are filled and credit is assigned; ``before_policy`` inside every optimiser
    step, by itself and first; ``with_policy`` in one joint step of all such fits, whose losses are summed.
    every: only in every so many optimiser steps. repeat: so many steps on the same batch (not in the joint step).
    """

    loss: Callable[[Batch, Any], Tensor]
    learner: str = ""
    when: Literal["before_credit", "before_policy", "with_policy"] = "with_policy"
    every: int = 1
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.repeat != 1 and self.when == "with_policy":
            raise ValueError("the joint step is taken once: a fit with `repeat` is stepped before the policy")

    def due(self, number: int) -> bool:
        """Whether it is stepped in optimiser step `number` (from 0)."""
        return (number + 1) % self.every == 0


class Nets(Mapping[str, Any]):
    """The learners by path as losses may see them: parameters fixed, inputs open.

    ``nets["credit"].fill(batch, ["q"])`` gives columns that are differentiable with respect to the batch's columns only.
    """

    def __init__(self, learners: Mapping[str, Any]) -> None:
        self._learners = learners

    def __getitem__(self, path: str) -> Net:
        return Net(self._learners[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._learners)

    def __len__(self) -> int:
        return len(self._learners)


@dataclass(frozen=True)
class Net:
    """One learner with its parameters fixed."""

    learner: Any

    def fill(self, batch: Batch, names: list[str]) -> dict[str, Tensor]:
        """The named columns [N, ...], differentiable with respect to the columns of `batch`, never to the parameters."""
        with fixed(self.learner.parameters()):
            return self.learner.fill(batch, names, grad=True)

    def given(self, batch: Batch, names: list[str]) -> dict[str, Tensor]:
        """The named columns [N, ...] as they are, without derivatives: what control asks about prompts."""
        return self.learner.fill(batch, names, grad=False)


@contextmanager
def fixed(parameters: Any) -> Iterator[None]:
    """No gradient reaches `parameters` through what is computed inside."""
    trained: list[nn.Parameter] = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
