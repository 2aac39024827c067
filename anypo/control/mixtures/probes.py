"""What control may ask of a run's copies: probes of it, and what comes of mixing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anypo.parts import Part

Read = Literal["solutions", "errors"]
"""What is read off a policy: the mean negative log-likelihood per token of the worked solutions of every source (nats), or the share
of problems that it gets wrong, playing as the method acts."""


@dataclass(frozen=True)
class Probes:
    """Copies of the run, each trained for `steps` steps of the loop with another memory of `part` (one for each of `memories`), and
    the policies in between them.

    mixtures: one for each policy to be looked at, how much of every probe it has [R, P], rows with sum 1; its weights are those sums
    of the probes' weights. rank, alpha: of the adapters that a probe trains on weights that stay as they are, where the policy can
    have such; lr: its learning rate over the run's. read: what is looked at, over `size` of every source's last training problems.
    """

    part: Part
    memories: Sequence[Mapping[str, Any]]
    steps: int
    mixtures: np.ndarray
    rank: int = 16
    alpha: float = 32.0
    lr: float = 2.0
    read: Read = "solutions"
    size: int = 32


@dataclass(frozen=True)
class Probed:
    """losses: of every policy on every source, [R, J], sources in order. trained, read: tokens that the probes were trained on and
    that were read to look at the policies."""

    losses: np.ndarray
    trained: float
    read: float


__all__ = ["Probed", "Probes", "Read"]
