"""Rollouts that are judged after their first tokens by a head that learns as the run goes, and given up where too many are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CANCELLED, Group, Tokens, Trajectory
from anypo.engine.base import Seen
from anypo.fits import Fit
from anypo.generate.base import OWN, Independent, World, answered, rollout_key
from anypo.generate.conversation import Episode, request
from anypo.generate.resume import Start, begun, ended, given_up
from anypo.generate.watched.quality import HIDDEN, QualityHead, bucket, posterior, ranked, survival
from anypo.outlook import Outlook, moment, unreached
from anypo.update.base import Optimiser
from anypo.update.gradient import AdamW

LOT = 5
"""The role of the lots that decide who goes on, in their keys."""


class Pruned(Independent, name="pruned"):
    """Independent rollouts, of which those that reach `detect` tokens are judged there, and only the share `keep` of them goes on,
    drawn so that right and wrong ones are left in the proportion `balance` (ARRoL, arXiv:2603.24840). The others are given up
    inside of the engine: their places are free at once, nobody scores them, and `drop_cancelled` keeps them out of training. One
    turn.

    The judge is a head of two layers on the policy's last hidden state after `detect` tokens (`QualityHead`), trained beside the
    policy on the rollouts that were not given up: mean of -r log s(z) - (1 - r) log(1 - s(z)) over those that reached `detect`, s the
    logistic function; the policy's weights are out of its reach. Its logits are calibrated by counts: of all rollouts judged so far
    and scored, how many in each of `buckets` parts of [0, 1] were right, in the share of their reward (`posterior`). Once all
    rollouts of a prompt have reached `detect` or ended, each that goes on does so with probability v (`survival`). A rollout that
    ends before is never given up. Until `cold` nobody is given up; the head learns from the first step on.
    """

    traced = True
    requires = frozenset({"watched", "without_cancelled"})
    reads = frozenset({"quality"})
    detect: float = Field(
        0.25, gt=0.0, description="tokens after which rollouts are judged, below 1 a share of max_new"
    )
    keep: float = Field(0.5, gt=0.0, le=1.0, description="share of those judged that goes on")
    balance: float = Field(0.5, gt=0.0, lt=1.0, description="share of right ones wanted among these")
    cold: float = Field(0.2, ge=0.0, description="steps without pruning, below 1 a share of the run")
    buckets: int = Field(10, ge=1)
    width: int = Field(64, ge=1, description="hidden units of the head")
    optimiser: Optimiser = AdamW(lr=1e-3)

    @property
    def after(self) -> int:
        """Decisions that a rollout is judged after."""
        return moment(self.detect, self.max_new)

    def refuse(self, algorithm: Any) -> str | None:
        if self.turns != 1:
            return "judges one-turn answers only; set generate.turns to 1"
        if self.after >= self.max_new:
            return (
                f"rollouts are judged after {self.after} tokens and end at generate.max_new={self.max_new}, so that nothing is saved; "
                "set generate.detect=0.125"
            )
        if any("pseudo_reward" in part.provided() for _, part in algorithm.walk()):
            return (
                "counts how rollouts that it judged came out before filter.signals give them their rewards, so that it would count "
                "none as right; use --reward verifier and no signal that makes rewards"
            )
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.keep == 1:
            return "generate.keep=1 gives up nobody; set generate.keep=0.5"
        return unreached(self.cold, outlook.steps, "generate.cold") or super().dormant(algorithm, outlook)

    def regime(self) -> tuple[str, ...]:
        return (f"of rollouts longer than {self.after} tokens {self.keep:.0%} go on",)

    def start(self) -> dict[str, Any]:
        return {"counts": np.zeros((2, self.buckets))}

    def learner(self, policy: Any, seed: int) -> Any:
        """The head: on a language model's own states, or the policy's own critic where it has one."""
        if hasattr(policy, "critic"):
            return QualityHead(policy.critic(seed), self.after)
        from anypo.policies.language.critic import Critic  # a model, which sampling itself never needs

        return QualityHead(Critic(policy, "head", self.width, seed), self.after)

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.quality_loss, when="before_policy"),)

    def quality_loss(self, batch: Batch, context: Context) -> Tensor:
        """Mean cross-entropy of the head over the rollouts that were judged and not given up, a scalar; rewards are cut to [0, 1]."""
        scored = torch.tensor([t.finish != CANCELLED for t in batch.trajectories], dtype=torch.bool)
        judged = (
            (batch["position"] == self.after) & (batch.weight > 0) & scored.to(batch.sequence.device)[batch.sequence]
        )
        logit = batch["quality"][judged]
        target = batch.sequences["reward"].clamp(0.0, 1.0)[batch.sequence[judged]].to(logit.dtype)
        loss = F.binary_cross_entropy_with_logits(logit, target, reduction="sum") / max(1, len(logit))
        context.log("generate/quality_loss", loss)
        return loss

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        sampling = self.sampling(context)
        problems = [world.problem(ask) for ask in asks]
        rollouts = [
            Rollout(place, begun(_start(ask, problem, sample, context), world, sampling))
            for place, (ask, problem) in enumerate(zip(asks, problems))
            for sample in range(ask.samples)
        ]
        counts = context.memory[self]["counts"]
        left = np.array([ask.samples for ask in asks])

        def watch(news: Sequence[Seen]) -> Sequence[int]:
            ready = set()
            for seen in news:
                rollout = rollouts[seen.place]
                if rollout.hear(seen, self.after):
                    left[rollout.group] -= 1
                    ready.add(rollout.group)
            ready = {group for group in ready if not left[group]}
            judged = [r for r in rollouts if r.group in ready and r.reached]
            if not judged:
                return ()
            for rollout, logit in zip(judged, self.logits(judged, world, context)):
                rollout.logit = float(logit)
            if context.step < context.moment(self.cold):
                return ()
            return [place for group in sorted(ready) for place in self._lots(rollouts, group, asks, counts, context)]

        requests = [request(rollout.episode, sampling) for rollout in rollouts]
        completions = world.sampler.watched(requests, watch, self.after) if requests else []  # type: ignore[attr-defined]
        gone = [completion.finish == CANCELLED for completion in completions]
        parts = [
            iter(made([r.episode for r, g in zip(rollouts, gone) if g == lost],
                      [c for c, g in zip(completions, gone) if g == lost], world, sampling))
            for lost, made in ((False, ended), (True, given_up))
        ]  # fmt: skip
        done = [rollout.kept(next(parts[lost])) for rollout, lost in zip(rollouts, gone)]
        self._learn(rollouts, done, world, context)
        members: list[list[Trajectory]] = [[] for _ in asks]
        for rollout, trajectory in zip(rollouts, done):
            members[rollout.group].append(trajectory)
        return [answered(ask, problem, own, context) for ask, problem, own in zip(asks, problems, members)]

    def logits(self, judged: Sequence[Rollout], world: World, context: Context) -> np.ndarray:
        """What the head says of rollouts that have reached `after` decisions, [n]; nan where there is no head (outside of a run)."""
        if context.nets is None:
            return np.full(len(judged), np.nan)
        batch = Batch.pack([Group(r.episode.problem.prompt, (r.partial(),)) for r in judged])
        quality = context.nets[context.memory.path(self)].given(batch, ["quality"])["quality"]
        return quality[batch["position"] == self.after].double().cpu().numpy()  # type: ignore[no-any-return]

    def chances(self, logits: np.ndarray, counts: np.ndarray, context: Context) -> np.ndarray:
        """Probability of each rollout of a group to go on, from what the head says, [n]."""
        return survival(posterior(counts)[bucket(logits, self.buckets)], self.keep, self.balance)

    def _lots(
        self, rollouts: Sequence[Rollout], group: int, asks: Sequence[Ask], counts: np.ndarray, context: Context
    ) -> list[int]:
        """The places of those that are given up, of a group that has been judged."""
        places = [place for place, r in enumerate(rollouts) if r.group == group and r.reached and not r.over]
        logits = np.array([rollouts[place].logit for place in places])
        if not len(places) or np.isnan(logits).any():
            return []
        out = []
        for place, chance in zip(places, self.chances(logits, counts, context)):
            episode = rollouts[place].episode
            key = rollout_key(context, episode.problem, asks[group].visit, LOT, episode.sample)
            if np.random.default_rng(key).random() >= chance:
                out.append(place)
        return out

    def _learn(self, rollouts: Sequence[Rollout], done: Sequence[Trajectory], world: World, context: Context) -> None:
        """Count the scored ones by bucket, and say how well they were told apart."""
        known = [(r.logit, t) for r, t in zip(rollouts, done) if t.finish != CANCELLED and not np.isnan(r.logit)]
        right = np.array([t.is_right(world.task.outcome) for _, t in known], dtype=bool)
        logits = np.array([logit for logit, _ in known])
        share = np.clip([t.reward for _, t in known], 0.0, 1.0)  # the head's target: partly right where rewards are
        place, counts = bucket(logits, self.buckets), context.memory[self]["counts"]
        counts[1] += np.bincount(place, share, self.buckets)
        counts[0] += np.bincount(place, 1.0 - share, self.buckets)
        total = max(1, len(done))
        context.log("generate/judged_share", sum(r.reached for r in rollouts) / total)
        context.log("generate/pruned_share", sum(t.finish == CANCELLED for t in done) / total)
        if not np.isnan(area := ranked(logits[right], logits[~right])):
            context.log("generate/quality_auc", area)


@dataclass
class Rollout:
    """One rollout on its way. `said`: its tokens until it is judged; `logit`: what the head said of it (nan: nothing)."""

    group: int
    episode: Episode
    said: list[int] = field(default_factory=list)
    hidden: np.ndarray | None = None
    reached: bool = False
    over: bool = False
    logit: float = float("nan")

    def hear(self, seen: Seen, after: int) -> bool:
        """Take note of a token. Whether the rollout needs no more waiting for: it has just ended, or come to be judged."""
        waited = not (self.reached or self.over)
        if seen.length <= after + 1:
            self.said.append(seen.token)
        if seen.length == after + 1:
            self.reached, self.hidden = True, seen.hidden
        self.over = self.over or bool(seen.finish)
        return waited and (self.reached or self.over)

    def partial(self) -> Trajectory:
        """What there is of it when it is judged."""
        stretch, n = self.episode.stretch, len(self.said)
        tokens = np.concatenate([*stretch.tokens, np.array(self.said)]).astype(np.int32)
        roles = np.concatenate([*stretch.roles, np.full(n, ACTION, dtype=np.int8)])
        nothing = np.zeros(n)
        content, version = Tokens(tokens, roles), np.zeros(n, dtype=np.int64)
        return Trajectory(self.episode.problem.prompt, content, nothing, version, extra={HIDDEN: self.hidden})

    def kept(self, made: Trajectory) -> Trajectory:
        """Its record, with the state that it was judged by."""
        return made if self.hidden is None else made.replace(extra={**made.extra, HIDDEN: self.hidden})


def _start(ask: Ask, problem: Any, sample: int, context: Context) -> Start:
    key = rollout_key(context, problem, ask.visit, OWN, sample)
    return Start(problem, key, sample=sample, shown=ask.shown, state=ask.start)


__all__ = ["Pruned"]
