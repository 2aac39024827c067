"""Records: what a rollout leaves behind. Immutable; parts return new ones.

A `Trajectory` holds either tokens (language) or steps (observation/action arrays); everything per *decision* is a flat
array over the decisions, whatever they are, so parts downstream never need to know which.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anypo.data.content import Media
from anypo.data.kept import Kept

CONTEXT, ACTION, OBSERVATION, IGNORED = 0, 1, 2, 3
"""Token roles: given, decided by the policy, returned by the environment, and present but never trained on."""

FINISHED, TRUNCATED, CANCELLED, FAILED = "stop", "length", "cancelled", "failed"
"""Finish reasons: the policy ended it, the length limit did, a part cancelled it, the verifier or environment broke."""

DEMO = "demo"
"""The `guidance` of a trajectory that an expert wrote: logp 0, version -1, not sampled by any policy."""

TARGET = "target"
"""The `guidance` of a rollout to be imitated, drawn from another distribution than the policy's own; version -1."""

DRIFT = "drift"
"""The `guidance` of a stored rollout that is only there to measure how far the policy moved (never trained on)."""

REPLAYED = "replayed"
"""The `guidance` of a rollout of the previous step that is trained on once more."""

SHOWN = "shown"
"""The `guidance` of a rollout whose sampler saw more than the plain prompt because its ask said so."""

RIGHT = "right"
"""What `extra` of a guided rollout says: whether the task's outcome is right, whatever else it pays."""

GUIDED = "guided"
"""The tag of a rollout that is trained on the plain prompt though its sampler was shown a guide."""

STATES = "states"
"""Key of `Trajectory.extra` under which a rollout that is to be forked keeps where its environment stood before every turn
(`anypo.tasks.base.State`). They live as long as the step: nothing stored keeps them."""


def prompt_id(text: str) -> int:
    """A stable non-negative 63-bit identity of a prompt, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def key_id(value: Hashable) -> int:
    """A stable id of a key's value: small integers are their own, anything else a hash of its `repr`."""
    if isinstance(value, (int, np.integer)) and 0 <= int(value) < 2**62:
        return int(value)
    return prompt_id(repr(value)) | 2**62


@dataclass(frozen=True)
class Tokens:
    """Content of a language rollout: every token of the trained-on sequence with its role, both [L].

    `shown` is the prompt that was shown when sampling where it differs from the trained-on context (hints, prefixes,
    experience); `media` the images, sounds and films among the tokens, in order (each takes `Media.tokens` of them).
    """

    tokens: np.ndarray
    roles: np.ndarray
    shown: np.ndarray | None = None
    media: tuple[Media, ...] = ()

    @property
    def actions(self) -> np.ndarray:
        """Indices of the policy's decisions in `tokens`, [T]."""
        return np.flatnonzero(self.roles == ACTION)


@dataclass(frozen=True)
class Steps:
    """Content of a control rollout: observations [T, ...], actions [T, ...] and the observation after the last step, over its T
    decisions (several for every step in the environment where a policy acts through chains). extra: further arrays [T, ...]
    that the decisions were made with; row columns of a batch."""

    observations: np.ndarray
    actions: np.ndarray
    last: np.ndarray
    terminated: bool = True
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """One rollout. Arrays are over its T decisions unless stated; log-probabilities are natural logs.

    logp: of the distribution actually sampled from (temperature, truncation applied). version: policy version per decision.
    log_mass: log of the probability mass kept by top-p/top-k/min-p truncation at each decision (0 without truncation), under the
    weights that sampled. kept: the tokens it left, which say what was kept under any weights (None: all, or nobody knows).
    turn: 0-based turn of each decision. step_rewards: dense reward per decision (zeros when only the outcome counts).
    rewards: named reward components of the whole trajectory; weights: what each counts for in `reward`, where that is a weighted sum
    of them (empty: nobody said). parent/fork: index of the parent trajectory in its group and
    the decision at which this one left it (-1: a root). guidance: what helped (hint, prefix, retry), empty when unguided.
    keys: ids by which credit makes groups (episode, session, state, step), each one integer for the whole or one per decision, int64
    [T]; at least 0, -1 says that there is none (`key_id` makes them of other things). tag: which loss it belongs to where an
    objective has several (empty: that of its guidance, for demonstrations and targets). weight: per decision, 0 where it does not
    count (None: all count).
    """

    prompt: int
    content: Tokens | Steps
    logp: np.ndarray
    version: np.ndarray
    rewards: Mapping[str, float] = field(default_factory=dict)
    reward: float = 0.0
    entropy: np.ndarray | None = None
    log_mass: np.ndarray | None = None
    kept: Kept | None = None
    turn: np.ndarray | None = None
    step_rewards: np.ndarray | None = None
    finish: str = FINISHED
    text: str = ""
    temperature: float = 1.0
    sample: int = 0
    parent: int = -1
    fork: int = -1
    guidance: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, int | np.ndarray] = field(default_factory=dict)
    tag: str = ""
    weight: np.ndarray | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logp)

    @property
    def belongs(self) -> str:
        """The tag, or the one that its guidance implies."""
        return self.tag or (self.guidance if self.guidance in (DEMO, TARGET) else "")

    @property
    def truncated(self) -> bool:
        return self.finish == TRUNCATED

    def is_right(self, outcome: str) -> bool:
        """Whether the reward component `outcome` (the reward, where there is none of that name) says that it is right."""
        return self.rewards.get(outcome, self.reward) >= 1 - 1e-9

    @property
    def turns(self) -> int:
        """How many turns it has decisions of; 1 where nobody counted them."""
        return len(np.unique(self.turn)) if self.turn is not None else min(1, len(self))

    def replace(self, **fields: Any) -> Trajectory:
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True)
class Group:
    """Trajectories of one prompt in one step. A prompt drawn twice makes two groups. `index`: which training problem it was.
    `visit`: how often the run had asked for this prompt before; continuations of the group key their randomness by it. `aside`: made,
    counted and shown, but not trained on (attempts that a generator put others in the place of)."""

    prompt: int
    trajectories: tuple[Trajectory, ...]
    problem: Any = None
    step: int = 0
    index: int = -1
    visit: int = 0
    aside: bool = False

    @property
    def rewards(self) -> np.ndarray:
        return np.array([trajectory.reward for trajectory in self.trajectories], dtype=np.float64)

    def scored(self) -> Group:
        """Without the rollouts that were given up while they were sampled: nobody scored them, and their reward of 0 says nothing."""
        if all(trajectory.finish != CANCELLED for trajectory in self.trajectories):
            return self
        return self.replace(trajectories=tuple(t for t in self.trajectories if t.finish != CANCELLED))

    def replace(self, **fields: Any) -> Group:
        return dataclasses.replace(self, **fields)
