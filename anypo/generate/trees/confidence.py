"""Trees that fork where the policy is both unsure and in doubt, and are pruned where it loses confidence (ECHO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.kept import Kept
from anypo.data.records import CANCELLED, Group, Tokens, Trajectory
from anypo.generate.base import World, rollout_key
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, decisions
from anypo.generate.trees.segments import TREE, _Forking, _grown, log_shared

TOP, PEAK, TAIL, BEFORE = 64, 5, 8, 4
"""Log-probabilities kept per decision, those that make its confidence, decisions of the tail, and decisions before a rise."""


@dataclass(frozen=True)
class Steps:
    """Per decision of one rollout: entropy H of the renormalised top probabilities, confidence C (minus the mean log of
    the five largest: larger is peakier), C over the last `window` (group) and last eight (tail) decisions, rise of H
    over the mean of the four before, and the `width` most likely tokens with
    their log-probabilities, [T, width]."""

    entropy: np.ndarray
    group: np.ndarray
    tail: np.ndarray
    rise: np.ndarray
    likely: np.ndarray
    likely_logp: np.ndarray


def statistics(logits: torch.Tensor, window: int, width: int) -> Steps:
    """Step statistics from logits [T, V]."""
    values, index = logits.double().topk(min(TOP, logits.shape[-1]), dim=-1)
    logp = values.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1).numpy()
    confidence = -logp[:, :PEAK].mean(-1).numpy()
    before = [entropy[max(0, t - BEFORE) : t].mean() if t else entropy[0] for t in range(len(entropy))]
    return Steps(
        entropy,
        trailing(confidence, window),
        trailing(confidence, TAIL),
        entropy - np.array(before),
        index[:, :width].numpy(),
        logits.double().log_softmax(-1).gather(1, index)[:, :width].numpy(),
    )


def trailing(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each entry and up to window - 1 before it."""
    return np.array([values[max(0, t - window + 1) : t + 1].mean() for t in range(len(values))])


class ConfidenceForks(_Forking, name="confidence_forks"):
    """Whole rollouts, each forked once at its first decision that is uncertain and in doubt, then pruned (ECHO).

    Fork: the first decision from `depth` on with entropy >= `uncertain`, group confidence <= `doubt` and rise >= `rise`;
    its width is round(1 + 2 (H - `calm`) / (`uncertain` - `calm`) - (C - `doubt`) / |`doubt`|) within 1..`widest`, and
    the branches start with that many of the likeliest tokens. Pruned is a rollout at the first decision where the group
    confidence so far fell below `least`; or the tail confidence fell three times in a row to at most `tail`; or the rise
    was positive three times in a row and exceeds `surge`: it is cut there, marked as cancelled, and earns nothing.
    """

    trees: int = Field(4, ge=1)
    depth: int = Field(4, ge=0)
    uncertain: float = 3.5
    calm: float = 1.0
    doubt: float = 1.2
    rise: float = 0.2
    widest: int = Field(4, ge=1)
    least: float = 0.4
    tail: float = 1.0
    surge: float = 0.5
    window: int = Field(4, ge=1)
    provides = TREE

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [self.trees] * len(asks), world, context)
        starts, homes = [], []
        for place, group in enumerate(groups):
            size = len(group.trajectories)
            for mother, steps in zip(group.trajectories, self._steps(group.trajectories, world)):
                cut = self.fork(steps)
                if cut is None:
                    continue
                width = self.width(steps, cut)
                for token, logp in zip(steps.likely[cut][:width].tolist(), steps.likely_logp[cut].tolist()):
                    if token == int(decisions(mother)[cut]):
                        continue
                    seed = begun(mother, cut, token, logp)
                    key = rollout_key(context, group.problem, group.visit, 1 + cut, size)
                    starts.append(Start(group.problem, key, seed, cut + 1, sample=size, parent=mother.sample, fork=cut))
                    homes.append(place)
                    size += 1
        grown = _grown(groups, homes, self.resumed(starts, world, context))
        log_shared(grown, context)
        return [group.replace(trajectories=tuple(self._pruned(group, world, context))) for group in grown]

    def _steps(self, trajectories: Sequence[Trajectory], world: World) -> list[Steps]:
        logits = next_logits(world.policy, trajectories)
        pieces = logits.split([len(t) for t in trajectories])
        return [statistics(piece, self.window, self.widest) for piece in pieces]

    def fork(self, steps: Steps) -> int | None:
        """The first decision worth a fork, or None."""
        worth = (steps.entropy >= self.uncertain) & (steps.group <= self.doubt) & (steps.rise >= self.rise)
        found = np.flatnonzero(worth[self.depth :])
        return int(found[0]) + self.depth if len(found) else None

    def width(self, steps: Steps, at: int) -> int:
        """Branches at a fork, the rollout itself included."""
        span = 2.0 * (steps.entropy[at] - self.calm) / (self.uncertain - self.calm)
        doubt = (steps.group[at] - self.doubt) / abs(self.doubt)
        return int(np.clip(round(1.0 + span - doubt), 1, self.widest))

    def prune(self, steps: Steps) -> int | None:
        """The first decision at which a rollout is given up, or None."""
        falls, rises = 0, 0
        for t in range(len(steps.entropy)):
            falls = falls + 1 if t and steps.tail[t] < steps.tail[t - 1] else 0
            rises = rises + 1 if steps.rise[t] > 0 else 0
            weak = steps.group[t] < self.least
            fading = falls >= 3 and steps.tail[t] <= self.tail
            surging = rises >= 3 and steps.rise[t] > self.surge
            if weak or fading or surging:
                return t
        return None

    def _pruned(self, group: Group, world: World, context: Context) -> list[Trajectory]:
        out, cuts = [], 0
        for trajectory, steps in zip(group.trajectories, self._steps(group.trajectories, world)):
            at = self.prune(steps)
            cuts += at is not None
            out.append(trajectory if at is None else trajectory.replace(finish=CANCELLED, reward=0.0))
        context.log("generate/pruned_share", cuts / max(1, len(out)))
        return out


def begun(mother: Trajectory, cut: int, token: int, logp: float) -> Trajectory:
    """The first `cut` decisions of `mother` followed by a chosen token with the log-probability the policy gives it."""
    content = mother.content
    assert isinstance(content, Tokens)
    at = int(content.actions[cut])
    entropy = np.zeros(len(mother)) if mother.entropy is None else mother.entropy
    return Trajectory(
        prompt=mother.prompt,
        content=dataclasses.replace(
            content, tokens=np.append(content.tokens[:at], token).astype(np.int32), roles=content.roles[: at + 1]
        ),
        logp=np.append(mother.logp[:cut], logp),
        version=mother.version[: cut + 1],
        entropy=entropy[: cut + 1],
        log_mass=None if mother.log_mass is None else np.append(mother.log_mass[:cut], 0.0),
        kept=Kept.joined([mother.kept.part(0, cut), None], [cut, 1]) if mother.kept is not None else None,
        turn=None if mother.turn is None else mother.turn[: cut + 1],
        extra=mother.extra,
    )
