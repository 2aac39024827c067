"""Trees that fork where the policy is both unsure and in doubt, and are pruned where it loses confidence (ECHO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.kept import Kept
from anypo.data.records import CANCELLED, Group, Tokens, Trajectory
from anypo.generate.base import World, rollout_key
from anypo.generate.conversation import ends
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, decisions
from anypo.generate.trees.segments import TREE, _Forking, _grown, log_shared
from anypo.outlook import Outlook

TOP, PEAK, TAIL, BEFORE = 64, 5, 8, 4
"""Log-probabilities kept per decision, those that make its confidence, decisions of the tail, and decisions before a rise."""


@dataclass(frozen=True)
class Steps:
    """Per decision of one rollout: entropy H of the renormalised top probabilities; confidence C, minus the mean log of the five
    largest (larger is peakier, at least ln 5), over the last `window` (group) and the last eight (tail) decisions; rise of H over
    the mean of the four before; and the `width` most likely tokens with their log-probabilities, [T, width]."""

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


@dataclass(frozen=True)
class Gates:
    """What is uncertain, calm and in doubt, and which confidences are too low, for the rollouts of one prompt (nats)."""

    uncertain: float
    calm: float
    doubt: float
    least: float
    tail: float


class ConfidenceForks(_Forking, name="confidence_forks"):
    """Whole rollouts, each forked once at its first decision that is uncertain and in doubt; the branches are watched while they are
    sampled, and given up where they lose confidence (ECHO).

    Fork: the first decision from `depth` on with entropy >= U, group confidence <= D and a rise >= `rise`; its width is
    round(1 + 2 (H - K) / (U - K) - (C - D) / D) within 1..`widest`, and the branches start with that many of the likeliest tokens,
    the end of the answer left out.
    A branch is given up at the first decision of its own where the group confidence lies below L; or the tail confidence fell three
    times in a row and is at most T; or the rise was positive three times in a row and exceeds `surge`. It is looked at every `look`
    decisions, cut where it lost confidence and marked as cancelled: it does not vote, and `drop_cancelled` keeps it out of training.

    U, K, D and T are quantiles (`uncertain`, `calm`, `doubt`, `tail`) of what the decisions of the prompt's whole rollouts show, L of
    their lowest group confidences (`least`), which is how DeepConf (arXiv:2508.15260) sets its threshold. The release compares with
    fixed numbers, a confidence of at most 1.2 to fork and below 0.4 to prune, which no distribution reaches: minus the mean log of
    five probabilities is at least ln 5 = 1.609.
    """

    trees: int = Field(4, ge=1)
    depth: int = Field(4, ge=0)
    uncertain: float = Field(0.9, ge=0.0, le=1.0)
    calm: float = Field(0.5, ge=0.0, le=1.0)
    doubt: float = Field(0.5, ge=0.0, le=1.0)
    rise: float = Field(0.2, description="nats over the mean of the four decisions before")
    widest: int = Field(4, ge=1)
    least: float = Field(0.1, ge=0.0, le=1.0)
    tail: float = Field(0.1, ge=0.0, le=1.0)
    surge: float = Field(0.5, description="nats")
    window: int = Field(4, ge=1)
    look: int = Field(8, ge=1, description="decisions sampled between two looks at a branch (of one turn)")
    provides = TREE

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.depth >= self.max_new - 1:
            return (
                f"rollouts fork from decision {self.depth} on, and have {self.max_new} at most; set generate.depth=0 or raise "
                "generate.max_new"
            )
        if self.widest == 1:
            return "a fork has one branch, the rollout itself; set generate.widest=4"
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [self.trees] * len(asks), world, context)
        starts, homes, gates, stop = [], [], [], ends(world.policy)
        for place, group in enumerate(groups):
            size, read = len(group.trajectories), self._steps(group.trajectories, world)
            gates.append(self.gates(read))
            for mother, steps in zip(group.trajectories, read):
                cut = self.fork(steps, gates[place])
                if cut is None or cut + 1 >= self.max_new:
                    continue
                width = self.width(steps, cut, gates[place])
                for token, logp in zip(steps.likely[cut][:width].tolist(), steps.likely_logp[cut].tolist()):
                    if token == int(decisions(mother)[cut]) or token in stop:
                        continue
                    seed = begun(mother, cut, token, logp)
                    key = rollout_key(context, group.problem, group.visit, 1 + cut, size)
                    starts.append(Start(group.problem, key, seed, cut + 1, sample=size, parent=mother.sample, fork=cut))
                    homes.append(place)
                    size += 1
        context.log(
            "generate/forked_share", len({(h, s.parent) for h, s in zip(homes, starts)}) / self.trees / len(asks)
        )
        branches = self._branches(starts, [gates[place] for place in homes], world, context)
        given_up = [t for t in branches if t.finish == CANCELLED]
        context.log("generate/pruned_share", len(given_up) / max(1, len(branches)))
        grown = _grown(groups, homes, branches)
        log_shared(grown, context)
        return grown

    def gates(self, read: Sequence[Steps]) -> Gates:
        """From the whole rollouts of a prompt."""
        entropy, group, tail = (np.concatenate(c) for c in zip(*((s.entropy, s.group, s.tail) for s in read)))
        lowest = [s.group.min() for s in read if len(s.group)]
        at = lambda values, share: float(np.quantile(values, share)) if len(values) else 0.0
        return Gates(
            at(entropy, self.uncertain),
            at(entropy, self.calm),
            at(group, self.doubt),
            at(lowest, self.least),
            at(tail, self.tail),
        )

    def _steps(self, trajectories: Sequence[Trajectory], world: World) -> list[Steps]:
        logits = next_logits(world.policy, trajectories)
        pieces = logits.split([len(t) for t in trajectories])
        return [statistics(piece, self.window, self.widest) for piece in pieces]

    def fork(self, steps: Steps, gates: Gates) -> int | None:
        """The first decision worth a fork, or None."""
        worth = (steps.entropy >= gates.uncertain) & (steps.group <= gates.doubt) & (steps.rise >= self.rise)
        found = np.flatnonzero(worth[self.depth :])
        return int(found[0]) + self.depth if len(found) else None

    def width(self, steps: Steps, at: int, gates: Gates) -> int:
        """Branches at a fork, the rollout itself included."""
        span = 2.0 * (steps.entropy[at] - gates.calm) / max(gates.uncertain - gates.calm, 1e-6)
        doubt = (steps.group[at] - gates.doubt) / max(abs(gates.doubt), 1e-6)
        return int(np.clip(round(1.0 + span - doubt), 1, self.widest))

    def prune(self, steps: Steps, gates: Gates, first: int = 0) -> int | None:
        """The first decision from `first` on at which a rollout is given up, or None."""
        falls, rises = 0, 0
        for t in range(len(steps.entropy)):
            falls = falls + 1 if t and steps.tail[t] < steps.tail[t - 1] else 0
            rises = rises + 1 if steps.rise[t] > 0 else 0
            weak = steps.group[t] < gates.least
            fading = falls >= 3 and steps.tail[t] <= gates.tail
            surging = rises >= 3 and steps.rise[t] > self.surge
            if t >= first and (weak or fading or surging):
                return t
        return None

    def _branches(
        self, starts: Sequence[Start], gates: Sequence[Gates], world: World, context: Context
    ) -> list[Trajectory]:
        """The branches, each sampled `look` decisions at a time until it ends or is given up (conversations: at once)."""
        sampling = self.sampling(context)
        look = self.look if self.turns == 1 else sampling.max_new
        done: dict[int, Trajectory] = {}
        going, piece = dict(enumerate(starts)), 0
        while going:
            piece += 1
            asked = [
                dataclasses.replace(s, key=(*s.key, piece), most=min(sampling.max_new, s.cut + look))
                if self.turns == 1
                else s
                for s in going.values()
            ]
            made = self.resumed(asked, world, context)
            for (place, start), trajectory, steps in zip(list(going.items()), made, self._steps(made, world)):
                at = self.prune(steps, gates[place], starts[place].cut)
                full = len(trajectory) >= sampling.max_new or len(trajectory.content.tokens) >= world.policy.context  # type: ignore[union-attr]
                ended = not trajectory.truncated or full or self.turns > 1
                if at is not None:
                    done[place] = head(trajectory, at + 1, world)
                elif ended:
                    done[place] = trajectory
                else:
                    going[place] = dataclasses.replace(start, seed=trajectory, cut=len(trajectory))
                    continue
                del going[place]
        return [done[place] for place in range(len(starts))]


def head(trajectory: Trajectory, length: int, world: World) -> Trajectory:
    """The first `length` decisions of a rollout that was given up: cancelled, without reward."""
    content = trajectory.content
    assert isinstance(content, Tokens)
    end = int(content.actions[length - 1]) + 1

    def first(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[:length]

    return trajectory.replace(
        content=dataclasses.replace(content, tokens=content.tokens[:end], roles=content.roles[:end]),
        logp=trajectory.logp[:length],
        version=trajectory.version[:length],
        entropy=first(trajectory.entropy),
        log_mass=first(trajectory.log_mass),
        kept=None if trajectory.kept is None else trajectory.kept.part(0, length),
        turn=first(trajectory.turn),
        step_rewards=first(trajectory.step_rewards),
        weight=first(trajectory.weight),
        text=world.policy.decode(decisions(trajectory)[:length]),
        keys={name: ids[:length] if isinstance(ids, np.ndarray) else ids for name, ids in trajectory.keys.items()},
        finish=CANCELLED,
        reward=0.0,
    )


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
