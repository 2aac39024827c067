"""Column names: ``statistic[@view][_source]``.

Three things are told apart: *what* is computed (logp, entropy, value, q, ...), *on which context* (the view; none is what is
trained on), and *with whose weights* (the source; none is the live weights, ``old`` those at the start of the update, ``behaviour``
what the sampler recorded, else a reference's name, a model's role, or the path of the part that owns a learner).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

OLD, BEHAVIOUR = "old", "behaviour"
"""Sources that every run has besides the live weights."""


@dataclass(frozen=True)
class Column:
    """One column's name, taken apart."""

    stat: str
    view: str = ""
    source: str = ""

    @staticmethod
    def parse(name: str, sources: Collection[str]) -> Column:
        """`name` taken apart; only a suffix that is one of `sources` is a source (the longest that fits), so ``logp_observation``
        is a statistic of its own unless something is called ``observation``."""
        fitting = [source for source in sources if source and name.endswith(f"_{source}")]
        source = max(fitting, key=len, default="")
        stat, _, view = (name[: -len(source) - 1] if source else name).partition("@")
        return Column(stat, view, source)

    def __str__(self) -> str:
        return self.stat + (f"@{self.view}" if self.view else "") + (f"_{self.source}" if self.source else "")

    @property
    def plain(self) -> str:
        """The name without its source: what the source is asked to fill."""
        return str(replace(self, source=""))

    def of(self, source: str) -> str:
        """The name of the same column from another source."""
        return str(replace(self, source=source))
