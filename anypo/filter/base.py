"""The filter room's interface: signals add named rewards, survival rules keep or drop groups and trajectories."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import DEMO, TARGET, Group
from anypo.parts import Part


class Signal(Part, slot="signal"):
    """Adds or replaces named reward components of the trajectories of one step."""

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        raise NotImplementedError


class Survival(Part, slot="survival"):
    """Decides what is trained on."""

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        raise NotImplementedError


class Filter(Part, slot="filter"):
    """Turns raw groups into groups worth training on. `rounds`: how often generation may be repeated in one step until
    the planned number of prompts has survived (dynamic sampling); 1 never repeats."""

    rounds: int = Field(1, ge=1)

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        """The same groups with the rewards that everything downstream sees."""
        return groups

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        """What of the scored groups is trained on."""
        raise NotImplementedError

    def screen(self, groups: list[Group], context: Context) -> list[Group]:
        """Score, then keep."""
        return self.keep(self.score(groups, context), context)


class Screen(Filter, name="screen"):
    """Apply every signal, then every survival rule, in order."""

    signals: tuple[Signal, ...] = ()
    survival: tuple[Survival, ...] = ()

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        for signal in self.signals:
            groups = signal.score(groups, context)
        return groups

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        for rule in self.survival:
            groups = rule.keep(groups, context)
        return groups


class DropDegenerate(Survival, name="drop_degenerate"):
    """Drop groups whose rewards are all equal, those of rollouts that were given up left out: their centred advantage is zero (DAPO's
    dynamic sampling when `rounds` > 1). Groups of demonstrations and targets stay, for what is imitated needs no contrast."""

    tolerance: float = Field(1e-9, ge=0.0)

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        return [group for group in groups if _imitated(group) or self._contrasts(group.scored().rewards)]

    def _contrasts(self, rewards: np.ndarray) -> bool:
        return bool(len(rewards) and np.ptp(rewards) > self.tolerance)


def _imitated(group: Group) -> bool:
    return bool(group.trajectories) and all(t.belongs in (DEMO, TARGET) for t in group.trajectories)


class DropTruncated(Survival, name="drop_truncated"):
    """Drop trajectories that hit the length limit (overlong filtering); a group left empty goes too."""

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        kept = [g.replace(trajectories=tuple(t for t in g.trajectories if not t.truncated)) for g in groups]
        return [group for group in kept if group.trajectories]


class DropCancelled(Survival, name="drop_cancelled"):
    """Drop trajectories that were given up while they were sampled (pruned branches); a group left empty goes too."""

    provides = frozenset({"without_cancelled"})

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        kept = [group.scored() for group in groups]
        return [group for group in kept if group.trajectories]


class FirstShare(Survival, name="first_share"):
    """Train on the first `share` of every group's rollouts (at least two, where there are as many): the others have voted or been
    compared with, and are not trained on (TTRL's samples among its votes)."""

    share: float = Field(0.5, gt=0.0, le=1.0)

    def keep(self, groups: list[Group], context: Context) -> list[Group]:
        return [
            g.replace(trajectories=g.trajectories[: max(2, round(self.share * len(g.trajectories)))]) for g in groups
        ]
