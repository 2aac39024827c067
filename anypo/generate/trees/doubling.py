"""Trees that grow segment by segment and double until they have as many leaves as were asked for (TreePO)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import TRUNCATED, Group
from anypo.data.tokens import until
from anypo.engine.base import Completion, Request, Sampling
from anypo.generate.base import World, answered, keys_of, rollout_key
from anypo.generate.conversation import joined
from anypo.generate.resume import Start, prompt_shown, score
from anypo.generate.trees.segments import TREE, _OneTurn, log_shared
from anypo.outlook import Outlook
from anypo.tasks.base import Problem

SEGMENT = "segment"
"""Key of every decision: the segment of its tree that it belongs to. Rollouts of a group that have one in common share it."""

ROUND = 1
"""The role of the segments of a round in their keys, plus the number of the round."""


@dataclass(frozen=True)
class Path:
    """An answer as far as it is decided, and the segments it is made of: their numbers in its tree, the decisions where they end."""

    said: Completion | None = None
    nodes: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def upto(self, segments: int) -> Path:
        """Its first segments only."""
        if not segments or self.said is None:
            return Path()
        return Path(self.said.first(self.ends[segments - 1]), self.nodes[:segments], self.ends[:segments])

    def grown(self, fresh: Completion, node: int) -> Path:
        """With one more segment."""
        return Path(joined(self.said, fresh), (*self.nodes, node), (*self.ends, len(self) + len(fresh.tokens)))


@dataclass
class Growing:
    """The tree of one prompt while it grows: `live` paths go on (one copy stands for each that will), `leaves` have ended."""

    ask: Ask
    problem: Problem
    prompt: np.ndarray
    live: list[Path] = field(default_factory=list)
    leaves: list[Path] = field(default_factory=list)
    nodes: int = 0
    fallbacks: int = 0


class DoublingTree(_OneTurn, name="doubling_tree"):
    """A tree per prompt, decoded a segment at a time, whose live paths double until it has the leaves that control asks for
    (TreePO, arXiv:2508.17445).

    Two copies of the prompt begin. After every round of one segment per path, a path has ended that stopped, has `max_new`
    decisions, or repeats itself (`window` characters occur `repeats` times in its last segment). With L live, E ended in this round
    and F ended in all, the next round has max(L, min(w - F, `forks` (L + E))) copies of the live paths, at least one of each; the
    others by `share`: ``even``, what is left over to the last one; ``unlikely`` or ``likely``, by largest remainder on a softmax of
    minus or plus the mean log-probability of a path's last segment. When no path lives and leaves are wanting, those that stopped are
    taken in random order, cut at a random earlier boundary (the prompt is one), and `forks` copies go on from there; from the prompt
    where none stopped.

    A segment is `max_new` / `depth` decisions, rounded up, unless `segment` says otherwise. Shared segments are sampled once. Every
    decision carries the key ``segment``.
    """

    depth: int = Field(14, ge=1, description="most segments of an answer, where `segment` is not given")
    segment: int | None = Field(None, ge=1, description="decisions per segment (none: max_new over depth, rounded up)")
    forks: int = Field(2, ge=2, description="copies of a live path in the next round")
    share: Literal["even", "likely", "unlikely"] = "even"
    window: int = Field(32, ge=1, description="characters")
    repeats: int = Field(8, ge=2)
    provides = TREE | {f"key:{SEGMENT}"}

    def provided(self) -> frozenset[str]:
        return super().provided() | keys_of(self)

    @property
    def length(self) -> int:
        """Decisions per segment."""
        return self.segment or -(-self.max_new // self.depth)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.length >= self.max_new:
            return (
                f"beyond the prompt: a segment of {self.length} decisions is a whole answer (generate.max_new={self.max_new}), so "
                "nothing branches; set generate.segment=null or raise generate.max_new"
            )
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        sampling, trees = self.sampling(context), []
        for ask in asks:
            problem = world.problem(ask)
            prompt = prompt_shown(Start(problem, ()), world, sampling.max_new)
            trees.append(Growing(ask, problem, prompt, [Path()] * min(self.forks, ask.samples)))
        number = 0
        while any(tree.live for tree in trees):
            self._round(trees, number, sampling, world, context)
            number += 1
        groups = [self._group(tree, world, sampling, context) for tree in trees]
        log_shared(groups, context)
        leaves = sum(len(tree.leaves) for tree in trees)
        context.log("generate/fallback_share", sum(tree.fallbacks for tree in trees) / max(1, leaves))
        return groups

    def _round(self, trees: Sequence[Growing], number: int, sampling: Sampling, world: World, context: Context) -> None:
        """One segment of every live path, and who lives in the next round."""
        requests = []
        for tree in trees:
            for place, path in enumerate(tree.live):
                seen = tree.prompt if path.said is None else np.concatenate([tree.prompt, path.said.tokens])
                length = min(self.length, sampling.max_new - len(path))
                key = rollout_key(context, tree.problem, tree.ask.visit, ROUND + number, place)
                requests.append(Request(seen, dataclasses.replace(sampling, max_new=length), key))
        done = zip(requests, world.sampler.generate(requests))
        for tree in trees:
            alive: list[Path] = []
            ended = 0
            for path, (request, fresh) in zip(tree.live, done):
                grown, over = self._judged(path.grown(fresh, tree.nodes), fresh, request, sampling, world)
                tree.nodes += 1
                ended += over
                (tree.leaves if over else alive).append(grown)
            tree.live = self._copies(alive, ended, tree.ask.samples - len(tree.leaves))
            if not tree.live:
                self._fall_back(tree, number, context)

    def _judged(
        self, path: Path, fresh: Completion, request: Request, sampling: Sampling, world: World
    ) -> tuple[Path, bool]:
        """The path, marked with how it ended, and whether it did."""
        assert path.said is not None
        if fresh.finish == "length" and sampling.stop:  # a stop string may begin in one segment and end in the next
            begun = until(path.said.tokens, sampling.stop, world.policy.decode)
            if begun:
                cut = dataclasses.replace(path.said.first(begun), finish="stop")
                return Path(cut, path.nodes, (*path.ends[:-1], begun)), True
        short = len(fresh.tokens) < request.sampling.max_new
        full = len(request.tokens) + len(fresh.tokens) >= world.policy.context
        if fresh.finish != "length" or short or full or len(path) >= sampling.max_new:
            return path, True
        if repetitive(world.policy.decode(fresh.tokens), self.window, self.repeats):
            return dataclasses.replace(path, said=dataclasses.replace(path.said, finish=TRUNCATED)), True
        return path, False

    def _copies(self, alive: Sequence[Path], ended: int, free: int) -> list[Path]:
        """The paths of the next round, each as often as it is continued."""
        total = max(len(alive), min(free, self.forks * (len(alive) + ended)))
        return [path for path, count in zip(alive, self.counts(alive, total)) for _ in range(count)]

    def counts(self, alive: Sequence[Path], total: int) -> list[int]:
        """How often each of the live paths is continued; `total` in all, at least once each."""
        n = len(alive)
        if not n:
            return []
        if self.share == "even":
            return [total // n] * (n - 1) + [total // n + total % n]
        sign = 1.0 if self.share == "likely" else -1.0
        means = sign * np.array([path.said.logp[len(path.upto(len(path.ends) - 1)) :].mean() for path in alive])  # type: ignore[union-attr]
        wanted = (total - n) * np.exp(means - means.max()) / np.exp(means - means.max()).sum()
        more = np.floor(wanted).astype(int)
        largest = np.argsort(-(wanted - more), kind="stable")[: total - n - int(more.sum())]
        more[largest] += 1
        return (1 + more).tolist()

    def _fall_back(self, tree: Growing, number: int, context: Context) -> None:
        """Go on from earlier boundaries of answers that ended well, until there is a path for every leaf that is wanting."""
        free = tree.ask.samples - len(tree.leaves)
        if free <= 0:
            return
        key = rollout_key(context, tree.problem, tree.ask.visit, ROUND + number, tree.ask.samples)
        rng = np.random.default_rng([k % 2**63 for k in key])
        clean = [leaf for leaf in tree.leaves if leaf.said is not None and leaf.said.finish == "stop"]
        begun = [clean[i].upto(int(rng.integers(len(clean[i].ends)))) for i in rng.permutation(len(clean))] or [Path()]
        tree.live = [path for path in begun for _ in range(self.forks)][:free]
        tree.fallbacks += len(tree.live)

    def _group(self, tree: Growing, world: World, sampling: Sampling, context: Context) -> Group:
        """The leaves as a group: each names the first leaf that it shares most with as its parent."""
        owner: dict[int, int] = {}
        starts, marks = [], []
        for sample, leaf in enumerate(tree.leaves):
            shared = sum(node in owner for node in leaf.nodes)  # whoever has a segment has those before it
            parent, fork = (owner[leaf.nodes[shared - 1]], leaf.ends[shared - 1]) if shared else (-1, -1)
            key = rollout_key(context, tree.problem, tree.ask.visit, 0, sample)
            starts.append(Start(tree.problem, key, sample=sample, parent=parent, fork=fork))
            marks.append(np.repeat(np.array(leaf.nodes), np.diff((0, *leaf.ends))).astype(np.int64))
            owner |= dict.fromkeys(leaf.nodes[shared:], sample)
        said = [leaf.said for leaf in tree.leaves if leaf.said is not None]
        scored = score(starts, said, world, sampling)
        marked = [t.replace(keys={**t.keys, SEGMENT: ids}) for t, ids in zip(scored, marks)]
        return answered(tree.ask, tree.problem, marked, context)


def repetitive(text: str, window: int, repeats: int) -> bool:
    """Whether some `window` characters occur `repeats` times in the text (overlaps count)."""
    seen = Counter(text[i : i + window] for i in range(len(text) - window + 1))
    return max(seen.values(), default=0) >= repeats


__all__ = ["SEGMENT", "DoublingTree", "Path", "repetitive"]
