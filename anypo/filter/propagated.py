"""Which answers survive that another model reasoned out of descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import RIGHT, Group, Trajectory
from anypo.filter.base import Survival


class Propagated(Survival, name="propagated"):
    """Of a prompt's answers the shortest one that is right and was reasoned out of a description of which more than the share `alpha`
    of the answers are right; a prompt without one goes (dataset rewards of SOPHIA, arXiv:2507.16814).

    With N answers a description needs floor(`alpha` N) + 1 right ones: 5 of 8 with 0.5, all of them from (N - 1) / N on. Length is in
    the policy's tokens; of equally short ones the first answer to the first description stays. An answer too long to be trained on
    counts for its description and does not stay itself. alpha 0 keeps the shortest right answer, whatever
    it came from.
    """

    requires = frozenset({"key:description"})
    alpha: float = Field(0.5, ge=0.0, lt=1.0)

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        good = [self.good(group.trajectories) for group in groups]
        kept = [shortest(some) for some in good]
        if good:
            context.log("filter/believed_share", float(np.mean([bool(some) for some in good])))
        return [group.replace(trajectories=(one,)) for group, one in zip(groups, kept) if one is not None]

    def good(self, answers: Sequence[Trajectory]) -> list[Trajectory]:
        """The answers that are right, short enough, and reasoned out of a description that is believed, in order."""
        by: dict[int, list[Trajectory]] = {}
        for answer in answers:
            by.setdefault(int(answer.keys["description"]), []).append(answer)
        believed = [made for made in by.values() if np.mean([bool(t.extra[RIGHT]) for t in made]) > self.alpha]
        return [t for made in believed for t in made if t.extra[RIGHT] and t.extra["fitting"]]


def shortest(answers: Sequence[Trajectory]) -> Trajectory | None:
    """The one with fewest tokens, the first of several; None of none."""
    return min(answers, key=len, default=None)


__all__ = ["Propagated", "shortest"]
