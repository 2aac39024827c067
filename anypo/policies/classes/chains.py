"""Policies that act through chains of inner steps, as values."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from anypo.policies.classes.base import PolicyClass, Wanted, bounded
from anypo.policies.generative.chain import ChainPolicy


class Chain(PolicyClass, name="chain"):
    """A Gaussian denoising chain (`ChainPolicy`): every action takes `inner` decisions, and the environment sees the last."""

    inner: int = Field(5, ge=1, description="inner steps of an action")
    hidden: tuple[int, ...] = (64, 64)
    normalise: bool = False
    provides = frozenset({"chain"})

    def check_acts(self, task: Any) -> None:
        bounded(task, self.part)

    def build(self, wanted: Wanted) -> ChainPolicy:
        size, low, high = bounded(wanted.task, self.part)
        return ChainPolicy(size, low, high, self.inner, self.hidden, wanted.seed, self.normalise)
