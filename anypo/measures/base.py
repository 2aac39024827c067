"""What a measure is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anypo.parts import Part

if TYPE_CHECKING:
    from anypo.run.disk.folder import RunFolder


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval [low, high] from `n` independent observations. unit: ``share`` for proportions. details:
    further numbers by name, shares and others as they are."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    details: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        own = {"estimate": self.value, "low": self.low, "high": self.high, "n": self.n, "unit": self.unit}
        return {**own, "details": dict(self.details)}


class Measure(Part, slot="measure"):
    """A question about a run with settings. What it computes is a pure function of this module's kind; the part only says where in
    the folder the data is."""

    def of(self, run: RunFolder) -> Estimate:
        """The estimate for a run. Raises `UserError` when the folder does not hold what it takes."""
        raise NotImplementedError
