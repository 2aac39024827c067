"""Groups that share prefixes: segment trees, entropy forks, chains of re-rolled states, vines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Trajectory
from anypo.generate.base import OWN, Generate, World, answered, keys_of, rollout_key
from anypo.generate.resume import Start, decisions, resume
from anypo.generate.workspace import Accumulate
from anypo.outlook import Outlook
from anypo.tasks.base import Task, restores

TREE = frozenset({"tree"})


class _Forking(Generate):
    """Shared by generators that continue from a stored state, at any decision of any turn."""

    def refuse(self, algorithm: object) -> str | None:
        if isinstance(self.workspace, Accumulate):
            return None
        return "continues conversations that grow by appending; set generate.workspace to accumulate"

    def provided(self) -> frozenset[str]:
        return super().provided() | keys_of(self)

    def suits(self, task: Task) -> str | None:
        if self.turns == 1 or restores(task):
            return None
        return "it forks episodes, and those of this task cannot be taken up again where they stood (restores = False)"

    def resumed(self, starts: Sequence[Start], world: World, context: Context) -> list[Trajectory]:
        """Continuations of the starts, which may be continued in turn."""
        return resume(starts, world, self.sampling(context), self.turns, keep=self.turns > 1)

    def roots(self, asks: Sequence[Ask], counts: Sequence[int], world: World, context: Context) -> list[Group]:
        """`counts[i]` independent rollouts of ask i, sample numbers 0, 1, ..."""
        problems = [world.problem(ask) for ask in asks]
        starts = [
            Start(problem, rollout_key(context, problem, ask.visit, OWN, sample), sample=sample)
            for ask, problem, count in zip(asks, problems, counts)
            for sample in range(count)
        ]
        done = iter(self.resumed(starts, world, context))
        return [
            answered(ask, problem, [next(done) for _ in range(count)], context)
            for ask, problem, count in zip(asks, problems, counts)
        ]


class _OneTurn(_Forking):
    """Shared by generators that read, edit or judge an answer as one text."""

    def refuse(self, algorithm: object) -> str | None:
        return "works on single answers only; set generate.turns to 1" if self.turns > 1 else super().refuse(algorithm)


class SegmentTree(_Forking, name="segment_tree"):
    """A tree of rollouts that branch after every `segment` decisions (SPO-tree, arXiv:2505.23564).

    `branching` (b0, b1, ...): b0 rollouts of the prompt; each is continued b1 times from its state after `segment` decisions
    (it itself being one of them), and so on; an answer that ends early is a leaf. At most b0 b1 ... leaves. The group's samples
    are the leaves; a forked one names its parent's sample number and the decision at which it left. By default a segment is an
    equal share of `max_new`, one for every level.
    """

    branching: tuple[int, ...] = (6, 6, 6)
    segment: int | None = Field(
        None, ge=1, description="decisions per segment (none: max_new over the number of levels)"
    )
    provides = TREE

    def refuse(self, algorithm: object) -> str | None:
        if len(self.branching) > 1 and self.length >= self.max_new * self.turns:
            return (
                f"answers have at most {self.max_new * self.turns} tokens, so none is as long as a segment of {self.length} and "
                "nothing branches; "
                "set generate.segment=null (an equal share for every level) or raise generate.max_new"
            )
        return super().refuse(algorithm)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        deepest = (self.max_new * self.turns - 1) // self.length
        if deepest < len(self.branching) - 1:
            return (
                f"beyond {deepest} of its {len(self.branching) - 1} forks: after {deepest + 1} segments of {self.length} tokens "
                f"nothing is left of generate.max_new={self.max_new}; set generate.segment=null"
            )
        return super().dormant(algorithm, outlook)

    @property
    def length(self) -> int:
        """Decisions per segment."""
        return self.segment or max(1, self.max_new // len(self.branching))

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [self.branching[0]] * len(asks), world, context)
        for level, width in enumerate(self.branching[1:], 1):
            cut = level * self.length
            starts, homes = [], []
            for place, group in enumerate(groups):
                size = len(group.trajectories)
                open_ends = [t for t in group.trajectories if len(t) > cut]
                for mother in open_ends:
                    for _ in range(width - 1):
                        key = rollout_key(context, group.problem, group.visit, level, size)
                        starts.append(
                            Start(group.problem, key, mother, cut, sample=size, parent=mother.sample, fork=cut)
                        )
                        homes.append(place)
                        size += 1
            groups = _grown(groups, homes, self.resumed(starts, world, context))
        log_shared(groups, context)
        return groups


class EntropyForks(_Forking, name="entropy_forks"):
    """Trees that fork where the policy was least sure (ETMR of ETTRL, arXiv:2508.11356).

    A prompt's samples are `trees` whole rollouts, each with `branches` continuations from each of its `forks` decisions of
    largest entropy (above `least_entropy`); the forked decision itself is drawn anew. trees (1 + branches forks) leaves for
    about (1 + branches forks / 2) / (1 + branches forks) of the tokens of as many independent rollouts.
    `rise`: only decisions whose entropy exceeds the mean of the four before by this much. The number of rollouts asked
    by control is not used.
    """

    trees: int = Field(2, ge=1)
    forks: int = Field(3, ge=1)
    branches: int = Field(2, ge=1)
    least_entropy: float = 0.0
    rise: float | None = None
    provides = TREE

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [self.trees] * len(asks), world, context)
        starts, homes = [], []
        for place, group in enumerate(groups):
            size = len(group.trajectories)
            for mother in group.trajectories:
                for cut in fork_points(mother, self.forks, self.least_entropy, self.rise):
                    for _ in range(self.branches):
                        key = rollout_key(context, group.problem, group.visit, 1 + cut, size)
                        starts.append(
                            Start(group.problem, key, mother, cut, sample=size, parent=mother.sample, fork=cut)
                        )
                        homes.append(place)
                        size += 1
        groups = _grown(groups, homes, self.resumed(starts, world, context))
        whole = sum(len(t) for g in groups for t in g.trajectories)
        context.log(
            "generate/shared_share", sum(max(t.fork, 0) for g in groups for t in g.trajectories) / max(1, whole)
        )
        return groups


def fork_points(trajectory: Trajectory, count: int, least: float = 0.0, rise: float | None = None) -> list[int]:
    """The `count` decisions of largest entropy, ascending; only those of at least `least`, and with `rise` only those whose
    entropy exceeds the mean of the four before them by as much."""
    entropy = np.zeros(len(trajectory)) if trajectory.entropy is None else np.asarray(trajectory.entropy, dtype=float)
    able = entropy >= least
    if rise is not None:
        before = np.array([entropy[max(0, t - 4) : t].mean() if t else np.inf for t in range(len(entropy))])
        able &= entropy - before >= rise
    order = np.argsort(-entropy, kind="stable")
    return sorted(int(t) for t in order[able[order]][:count])


def log_shared(groups: Sequence[Group], context: Context) -> None:
    """Share of the decisions that were copied from a parent instead of sampled."""
    every = [t for group in groups for t in group.trajectories]
    context.log("generate/shared_share", sum(max(t.fork, 0) for t in every) / max(1, sum(len(t) for t in every)))


def _grown(groups: Sequence[Group], homes: Sequence[int], fresh: Sequence[Trajectory]) -> list[Group]:
    """The groups with their new members appended."""
    members = [list(group.trajectories) for group in groups]
    for place, trajectory in zip(homes, fresh):
        members[place].append(trajectory)
    return [group.replace(trajectories=tuple(m)) for group, m in zip(groups, members)]


class ReRolled(_Forking, name="re_rolled"):
    """Independent rollouts whose intermediate states are valued by fresh continuations (SPO-chain, arXiv:2505.23564).

    A cutpoint is a decision taken with probability below `below`. Segments hold `interval` cutpoints each; at every segment
    start `continuations` completions are drawn and their mean reward stored in the rollout's `extra` (``starts``, ``values``);
    the prompt itself is valued once per group. Continuations are not trained on. With a `delimiter`, a segment ends instead
    with every decision whose text ends with it (reasoning steps).
    """

    below: float = Field(0.9, gt=0.0)
    interval: int = Field(5, ge=1)
    continuations: int = Field(9, ge=1)
    delimiter: str = ""
    provides = frozenset({"state_values"})

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        starts: list[Start] = []
        plan: list[list[list[int]]] = []
        for group in groups:
            plan.append([self._starts(t, world) for t in group.trajectories])
            starts += [
                Start(group.problem, rollout_key(context, group.problem, group.visit, -1, n))
                for n in range(self.continuations)
            ]
            for trajectory, cuts in zip(group.trajectories, plan[-1]):
                for cut in cuts[1:]:
                    for n in range(self.continuations):
                        key = rollout_key(context, group.problem, group.visit, cut, trajectory.sample, n)
                        starts.append(Start(group.problem, key, trajectory, cut))
        done = self.resumed(starts, world, context)
        context.log("generate/estimation_tokens", sum(len(t) - s.cut for t, s in zip(done, starts)))
        means = iter(np.array([t.reward for t in done]).reshape(-1, self.continuations).mean(1).tolist())
        out = []
        for group, chains in zip(groups, plan):
            root = next(means)
            valued = [
                t.replace(extra={**t.extra, "starts": cuts, "values": [root, *(next(means) for _ in cuts[1:])]})
                for t, cuts in zip(group.trajectories, chains)
            ]
            out.append(group.replace(trajectories=tuple(valued)))
        return out

    def _starts(self, trajectory: Trajectory, world: World) -> list[int]:
        if not self.delimiter:
            return segment_starts(np.asarray(trajectory.logp), self.below, self.interval)
        tokens = decisions(trajectory)
        return delimited([world.policy.decode(tokens[t : t + 1]) for t in range(len(tokens))], self.delimiter)


def delimited(pieces: Sequence[str], delimiter: str) -> list[int]:
    """First decisions of the steps: 0, then after every decision whose text ends with the delimiter."""
    return [0, *(t + 1 for t, piece in enumerate(pieces[:-1]) if piece.endswith(delimiter))]


def segment_starts(logp: np.ndarray, below: float, interval: int) -> list[int]:
    """First decisions of the segments: 0, then after every `interval` decisions with probability under `below`."""
    cutpoints = np.flatnonzero(np.exp(logp) < below)
    after = cutpoints[interval - 1 :: interval] + 1
    return [0, *(int(t) for t in after if t < len(logp))]


class Vine(_Forking, name="vine"):
    """Seed rollouts and, from evenly spaced states of each, a group of fresh continuations (polychromic objectives,
    arXiv:2509.25424).

    Every prompt gives one seed rollout, branched at `states` states (decision floor(i T / (states + 1)), i = 1..states). The
    continuations from one state form a group of their own of the size that control asks for, with the shared prefix as their
    parent's (not trained); the prompt's own independent group comes first.
    """

    states: int = Field(2, ge=1)
    provides = TREE

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [ask.samples for ask in asks], world, context)
        starts, sizes, owners = [], [], []
        for ask, group in zip(asks, groups):
            seed = group.trajectories[0]
            cuts = {len(seed) * i // (self.states + 1) for i in range(1, self.states + 1)} - {0}
            for cut in sorted(cuts):
                for sample in range(ask.samples):
                    key = rollout_key(context, group.problem, group.visit, 1 + cut, sample)
                    starts.append(Start(group.problem, key, seed, cut, sample=sample, fork=cut))
                sizes.append(ask.samples)
                owners.append(group)
        done = iter(self.resumed(starts, world, context))
        return groups + [
            owner.replace(trajectories=tuple(next(done) for _ in range(size))) for owner, size in zip(owners, sizes)
        ]
