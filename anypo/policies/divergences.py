"""Divergences as columns: ``jsd@privileged_ref``, how far the policy's next-token distribution is from another one.

A part that reads such a column has a `Divergence` among its fields whose `stat` is the column's statistic. One number per decision:
between the live policy on the context that is trained on (differentiated) and the column's source on the column's view (fixed), at
the sampling temperature of the sequence, over the whole vocabulary, whatever sampling left out.

The fixed side is written once, before credit, and stays for the whole update batch: ``old`` is the policy as it was at the start of
the update, however many optimiser steps follow, with the output head that belonged to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from anypo.column import BEHAVIOUR, Column
from anypo.engine.training.divergences import Capped, Leading, Statistic, divergence
from anypo.engine.training.head import Head
from anypo.parts import Part


class Divergence(Part, slot="divergence"):
    """A number per decision from two next-token distributions; columns ask for it by `stat`."""

    stat: str

    @abstractmethod
    def statistic(self) -> Statistic:
        """Its value and gradient."""


class Generalised(Divergence, name="jsd"):
    """The generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649), with q the source's distribution, p the policy's and
    m = (1 - beta) p + beta q: beta KL(q || m) + (1 - beta) KL(p || m) for 0 < beta < 1, KL(q || p) at 0 and KL(p || q) at 1.

    clip: most that one token of the vocabulary may add to a decision's sum (0: no bound); larger terms lose their gradient. top: only
    the source's likeliest tokens, renormalised on both sides (0: the whole vocabulary).
    """

    stat: str = Field("jsd", pattern=r"^[a-z][a-z0-9]*$")
    beta: float = Field(0.5, ge=0.0, le=1.0)
    clip: float = Field(0.0, ge=0.0)
    top: int = Field(0, ge=0)

    def statistic(self) -> Statistic:
        whole: Statistic = divergence(self.beta)
        if self.clip:
            whole = Capped(divergence(self.beta), self.clip)
        return Leading(whole, self.top) if self.top else whole


@dataclass
class Comparisons:
    """What a policy is compared by and with: statistics by name, the sources whose opinion can be had, and the output head that
    belongs to each source's states in the present batch."""

    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()
    heads: dict[str, Head] = field(default_factory=dict)

    def column(self, name: str) -> Column | None:
        """The divergence that a column's full name means; None for any other column."""
        column = Column.parse(name, self.sources)
        return column if column.source and column.stat in self.statistics else None

    def offers(self, name: str, columns: Collection[str]) -> bool:
        """Whether a policy that fills `columns` with a gradient can fill `name`: one of them in any view, or a divergence. Not in a
        fresh draw (``new`` or ``next``), which is an actor's, and not with another source's weights."""
        column = Column.parse(name, {BEHAVIOUR, *self.sources})
        if column.source:
            return self.column(name) is not None
        return column.stat in columns and column.view not in ("new", "next") and str(column) == name

    def meet(self, source: str, policy: Any) -> None:
        """Remember the head of `policy`, which has just filled the columns of `source`."""
        if hasattr(policy, "output"):
            self.heads[source] = policy.output()


__all__ = ["Comparisons", "Divergence", "Generalised"]
