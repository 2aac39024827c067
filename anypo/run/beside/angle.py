"""Two vectors that come in pieces: the angle between them and how far they are apart, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Angle:
    """Sums over the pieces of `ours` a and `theirs` b: a.b, |a|^2, |b|^2 and |a - b|^2. Every reading is a finite number."""

    dot: float = 0.0
    ours: float = 0.0
    theirs: float = 0.0
    apart: float = 0.0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """A further piece of both, of one shape."""
        a, b = ours.detach().double().flatten(), theirs.detach().double().flatten()
        self.dot += float((a * b).sum())  # not `a @ b`, whose last bit depends on where the vectors lie in memory
        self.ours += float(a.square().sum())
        self.theirs += float(b.square().sum())
        self.apart += float((a - b).square().sum())

    @property
    def known(self) -> bool:
        """Whether one of the two is not zero (and both are numbers)."""
        return math.isfinite(self.ours + self.theirs) and self.ours + self.theirs > 0

    @property
    def cosine(self) -> float:
        """a.b / |a||b|: 1 where both are zero, 0 where one of them is."""
        if not self.known:
            return 1.0
        scale = math.sqrt(self.ours) * math.sqrt(self.theirs)
        return max(-1.0, min(1.0, self.dot / scale)) if scale > 0 else 0.0

    @property
    def distance(self) -> float:
        """|a - b| / |b|: 0 where both are zero, 1 where only b is."""
        if not self.known:
            return 0.0
        return math.sqrt(self.apart / self.theirs) if self.theirs > 0 else 1.0
