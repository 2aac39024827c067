"""Trees that branch at close rivals and drop the branches that come to the same (LATR)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import ACTION, CONTEXT, TRUNCATED, Group, Tokens, Trajectory
from anypo.engine.base import Completion, Request, Sampling
from anypo.generate.base import OWN, World, answered, keys_of, rollout_key
from anypo.generate.conversation import ends
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, finished, prompt_shown
from anypo.generate.trees.alike import edit_distance, rouge_l, shared_ending
from anypo.generate.trees.segments import TREE, _OneTurn, log_shared
from anypo.outlook import Outlook, moment
from anypo.tasks.base import Problem

PIECE = 16
"""Greedy decisions that are fetched at a time for a branch that needs more."""

SYMBOLS = frozenset("+-*/\\<>=()[]{}_^&%$0123456789")
"""Characters of tokens that make a difference in mathematics, however alike the texts around them are."""

COUNTDOWN = ((0.0, 1.0), (0.02, 0.75), (0.04, 0.5), (0.16, 0.25), (0.4, 0.0))
"""Moments of a run and the shares of a group that come from the tree from then on: steps 0, 10, 20, 80 and 200 of 500."""


@dataclass(frozen=True)
class Rival:
    """The likeliest token beside the one that was taken: its log-probability as it would have been sampled, and the probabilities of
    both without temperature."""

    token: int
    logp: float
    chance: float
    first: float


@dataclass(eq=False)
class Branch:
    """A path of the tree: its tokens as far as they are known, and of each its log-probability, the entropy, and the closest rival.
    It left `parent` at decision `birth`; `over`: how many decisions it has, where it has ended."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    rivals: list[Rival] = field(default_factory=list)
    birth: int = 0
    parent: Branch | None = None
    over: int | None = None

    def ended(self, time: int) -> bool:
        """Whether it is complete after `time` decisions."""
        return self.over is not None and self.over <= time

    def child(self, time: int, stop: Collection[int]) -> Branch:
        """The branch that takes the rival at decision `time`."""
        rival = self.rivals[time]
        return Branch(
            [*self.tokens[:time], rival.token],
            [*self.logp[:time], rival.logp],
            self.entropy[: time + 1],
            self.rivals[: time + 1],
            time,
            self,
            time + 1 if rival.token in stop else None,
        )

    def descends(self, gone: Collection[Branch]) -> bool:
        """Whether it is one of these or comes from one."""
        return self in gone or (self.parent is not None and self.parent.descends(gone))


@dataclass
class Growth:
    """The tree of one prompt: its branches in the order in which they came, how many it may have, the most decisions for which
    it may grow, the decisions since it began."""

    ask: Ask
    problem: Problem
    prompt: np.ndarray
    capacity: int
    most: int
    branches: list[Branch] = field(default_factory=list)
    time: int = 0
    growing: bool = True
    born: int = 0
    suppressed: int = 0
    pruned: int = 0


class LookaheadTree(_OneTurn, name="lookahead_tree"):
    """Groups of which a share are the branches of one tree, and the others independent (LATR, arXiv:2510.24302).

    The tree grows a decision at a time; every branch takes its most likely token. Where the second has a probability above `rival`
    and less than `gap` below the first, a child takes it, as long as there is room for another branch (rollouts times share, rounded).
    At the ages `lookahead`, a child's tokens since its birth are held against its parent's: it goes, with all that descend from
    it, if their edit distance over the age is below `edit`, or their longest shared ending over it above `ending`, or the F1 of
    their longest common subsequence above `overlap` (None: not asked); not where one of them has ended, nor where the parent's
    first token is a number or a sign of mathematics. The tree is done when it is full and no branch is young enough to go, all have
    ended, or after `grow` decisions; then every branch is sampled to its end. If there are too few, the first one's
    beginning is continued for each that is wanting.

    `schedule`: (moment, share) pairs; from a moment (a step, or below 1 a share of the run) on the share of the group that comes from
    the tree. Log-probabilities are the policy's, as if branching and greedy decisions had been sampled.
    """

    rival: float = Field(0.25, ge=0.0, le=1.0)
    gap: float = Field(0.15, ge=0.0, le=1.0)
    lookahead: tuple[Annotated[int, Field(ge=1)], ...] = Field((20, 30, 50), min_length=1)
    edit: float | None = 0.4
    ending: float | None = None
    overlap: float | None = None
    grow: int | None = Field(None, ge=1, description="most decisions of the growing tree (none: half of max_new)")
    schedule: tuple[tuple[float, float], ...] = Field(COUNTDOWN, min_length=1)
    provides = TREE

    @field_validator("schedule")
    @classmethod
    def _possible(cls, schedule: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if schedule[0][0] != 0 or not all(0 <= share <= 1 for _, share in schedule):
            raise ValueError("begins with a pair at moment 0, and shares lie between 0 and 1")
        return schedule

    def provided(self) -> frozenset[str]:
        return super().provided() | keys_of(self)

    @property
    def limit(self) -> int:
        """Most decisions of the growing tree."""
        return min(self.grow or max(1, self.max_new // 2), self.max_new)

    def share(self, step: int, steps: int) -> float:
        """The share of a group that comes from the tree."""
        return [share for when, share in self.schedule if moment(when, steps) <= step or when == 0.0][-1]

    def refuse(self, algorithm: Any) -> str | None:
        if self.stop:
            return "fetches answers in pieces, and a stop string may lie across two; set generate.stop=[]"
        return super().refuse(algorithm)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if min(self.lookahead) > self.limit:
            return (
                f"beyond branching: no branch is older than {self.limit} decisions when its tree is done, and the first comparison is "
                f"at {min(self.lookahead)}; set generate.lookahead=[{max(1, self.limit // 2)}] or raise generate.max_new"
            )
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        sampling, share = self.sampling(context), self.share(context.step, context.total)
        trees = []
        for ask in asks:
            problem = world.problem(ask)
            prompt = prompt_shown(Start(problem, ()), world, sampling.max_new)
            room = round(ask.samples * share)
            most = max(1, min(self.limit, world.policy.context - len(prompt)))
            trees.append(Growth(ask, problem, prompt, room, most, [Branch()] if room else [], growing=room > 0))
        stop = ends(world.policy)
        while growing := [tree for tree in trees if tree.growing]:
            self._know(growing, sampling, world)
            for tree in growing:
                self._advance(tree, stop, world)
        groups = self._finished(trees, sampling, world, context)
        born = sum(tree.born for tree in trees)
        context.log("generate/born_per_tree", born / max(1, len(trees)))
        context.log("generate/pruned_share", sum(tree.pruned for tree in trees) / max(1, born))
        context.log("generate/suppressed", sum(tree.suppressed for tree in trees) / max(1, len(trees)))
        log_shared(groups, context)
        return groups

    def _know(self, trees: Sequence[Growth], sampling: Sampling, world: World) -> None:
        """Find out the next decision of every branch that goes on, and a few more while at it."""
        short = [
            (tree, branch)
            for tree in trees
            for branch in tree.branches
            if not branch.ended(tree.time) and len(branch.rivals) <= tree.time
        ]
        if not short:
            return
        greedy = dataclasses.replace(sampling, temperature=0.0, heat=None)
        wanting = [(tree, branch) for tree, branch in short if branch.over is None and len(branch.tokens) < tree.most]
        requests = [
            Request(
                np.concatenate([tree.prompt, np.array(branch.tokens, dtype=np.int64)]),
                dataclasses.replace(greedy, max_new=min(PIECE, tree.most - len(branch.tokens))),
                (0,),
            )
            for tree, branch in wanting
        ]
        for (_, branch), fresh in zip(wanting, world.sampler.generate(requests) if requests else []):
            branch.tokens += fresh.tokens.tolist()
            if fresh.finish == "stop" or not len(fresh.tokens):
                branch.over = len(branch.tokens)
        logits = next_logits(world.policy, [_trajectory(tree, branch, sampling) for tree, branch in short]).double()
        for (_, branch), rows in zip(short, logits.split([len(branch.tokens) for _, branch in short])):
            for at in range(len(branch.rivals), len(branch.tokens)):
                token, heated = branch.tokens[at], (rows[at] / sampling.temperature).log_softmax(-1)
                chance = rows[at].softmax(-1)
                others = chance.clone()
                others[token] = -1.0
                second = int(others.argmax())
                branch.logp.append(float(heated[token]))
                branch.entropy.append(float(-(heated.exp() * heated).sum()))
                branch.rivals.append(Rival(second, float(heated[second]), float(chance[second]), float(chance[token])))

    def _advance(self, tree: Growth, stop: Collection[int], world: World) -> None:
        """One more decision of every branch: children where a rival is close, those gone that come to the same, whether it is done."""
        time = tree.time
        for branch in list(tree.branches):
            if branch.ended(time):
                continue
            rival = branch.rivals[time]
            if rival.chance > self.rival and rival.first - rival.chance < self.gap:
                if len(tree.branches) < tree.capacity:
                    tree.branches.append(branch.child(time, stop))
                    tree.born += 1
                else:
                    tree.suppressed += 1
        tree.time = time + 1
        gone = [branch for branch in tree.branches if self.same(branch, tree.time, world)]
        left = [branch for branch in tree.branches if not branch.descends(gone)]
        tree.pruned += len(tree.branches) - len(left)
        tree.branches = left
        oldest = all(branch.birth + max(self.lookahead) < time for branch in left)
        over = all(branch.ended(tree.time) for branch in left)
        tree.growing = not (over or tree.time >= tree.most or (oldest and len(left) >= tree.capacity))

    def same(self, branch: Branch, time: int, world: World) -> bool:
        """Whether a branch comes to the same as its parent, asked when it is of an age to be compared."""
        age, parent = time - branch.birth, branch.parent
        if parent is None or age not in self.lookahead or branch.ended(time) or parent.ended(time):
            return False
        a, b = branch.tokens[branch.birth : time], parent.tokens[branch.birth : time]
        text = world.policy.decode(np.array(b[:1])).strip()
        if text and set(text) <= SYMBOLS:
            return False
        return (
            (self.edit is not None and edit_distance(a, b) / age < self.edit)
            or (self.ending is not None and shared_ending(a, b) / age > self.ending)
            or (self.overlap is not None and rouge_l(a, b) > self.overlap)
        )

    def _finished(self, trees: Sequence[Growth], sampling: Sampling, world: World, context: Context) -> list[Group]:
        """Every branch, and every independent rollout, sampled to its end and scored."""
        starts, begun = [], []
        for tree in trees:
            place = {id(branch): sample for sample, branch in enumerate(tree.branches)}
            filled = tree.branches[:1] * (tree.capacity - len(tree.branches))
            for sample, branch in enumerate([*tree.branches, *filled, *[None] * (tree.ask.samples - tree.capacity)]):
                said = _decided(branch, tree.time, world.policy.version) if branch else None
                parent, fork = -1, -1
                if said and sample >= len(tree.branches):
                    parent, fork = 0, len(said.tokens)
                elif branch and branch.parent is not None:
                    parent, fork = place[id(branch.parent)], branch.birth
                key = rollout_key(context, tree.problem, tree.ask.visit, OWN, sample)
                starts.append(Start(tree.problem, key, sample=sample, parent=parent, fork=fork))
                begun.append(said)
        done = iter(finished(starts, begun, world, sampling))
        return [answered(t.ask, t.problem, [next(done) for _ in range(t.ask.samples)], context) for t in trees]


def _trajectory(tree: Growth, branch: Branch, sampling: Sampling) -> Trajectory:
    """The branch as a rollout whose distributions can be asked for."""
    n = len(branch.tokens)
    tokens = np.concatenate([tree.prompt, np.array(branch.tokens, dtype=np.int64)]).astype(np.int32)
    roles = np.array([CONTEXT] * len(tree.prompt) + [ACTION] * n, dtype=np.int8)
    return Trajectory(
        tree.problem.prompt, Tokens(tokens, roles), np.zeros(n), np.zeros(n, np.int64), temperature=sampling.temperature
    )


def _decided(branch: Branch, time: int, version: int) -> Completion:
    """What a branch holds after `time` decisions, as if it had been sampled."""
    n = min(time, len(branch.tokens))
    return Completion(
        np.array(branch.tokens[:n], dtype=np.int64),
        np.array(branch.logp[:n]),
        np.array(branch.entropy[:n]),
        np.zeros(n),
        np.full(n, version, dtype=np.int64),
        "stop" if branch.ended(time) else TRUNCATED,
    )


__all__ = ["Branch", "LookaheadTree"]
