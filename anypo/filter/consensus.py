"""Rewards without labels: what the rollouts agree on, and how sure the policy was (test-time reinforcement learning).

These signals replace the scalar reward; the task's own components stay in the record, so wherever labels exist the accuracy of
the pseudo-labels is measured (metric ``filter/pseudo_label_accuracy``) without ever being trained on. Verdicts of a task whose
labels are hidden (`anypo.tasks.unlabelled`) are measured too, and taken out of the components.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.data.records import CANCELLED, Group, Trajectory
from anypo.filter.base import Signal
from anypo.outlook import Outlook
from anypo.tasks.text.extract import ExtractName, extract
from anypo.tasks.text.spans import interval, overlap
from anypo.tasks.unlabelled import LABEL

PSEUDO = frozenset({"pseudo_reward"})
"""Feature of a signal that gives every rollout a reward without labels."""


class MajorityVote(Signal, name="majority_vote"):
    """Reward 1 for the answer that most rollouts of the prompt gave, 0 otherwise (TTRL, arXiv:2504.16084).

    `answer`: how an answer is read from the text; rollouts without one, or cancelled before
    their end, neither vote nor win. Ties go to the answer whose first
    voter has the smallest sample number. `least`: smallest share of the rollouts the majority needs; below it the whole group
    gets reward 0. `outcome`: the task's component that says right or wrong, for measuring only.
    """

    answer: ExtractName = "last_number"
    least: float = Field(0.0, ge=0.0, le=1.0)
    provides = PSEUDO
    outcome: str = "correct"

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        return [self._vote(group, context) for group in groups]

    def _vote(self, group: Group, context: Context) -> Group:
        answers = [None if t.finish == CANCELLED else extract(self.answer, t.text) for t in group.trajectories]
        winner, share = majority(answers)
        if share < self.least:
            winner = None
        votes = [float(winner is not None and answer == winner) for answer in answers]
        context.log("filter/agreement", share)
        _compare(group.trajectories, votes, self.outcome, context)
        return _scored(group, votes, "vote", [{"answer": a} for a in answers])


def majority(answers: list[str | None]) -> tuple[str | None, float]:
    """The most frequent answer (first come among ties) and its share of all entries; (None, 0) when nobody answered."""
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    winner, votes = counts.most_common(1)[0]
    return winner, votes / len(answers)


class Confidence(Signal, name="confidence"):
    """Reward from the policy's own certainty about its answer: exp of the mean log-probability of its decisions
    (``likelihood``), or minus their mean entropy in nats (``entropy``). Needs neither labels nor a majority."""

    provides = PSEUDO
    of: Literal["likelihood", "entropy"] = "likelihood"
    outcome: str = "correct"

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        out = []
        for group in groups:
            values = [self._certainty(t) for t in group.trajectories]
            middle = float(np.median(values)) if values else 0.0
            _compare(group.trajectories, [float(v > middle) for v in values], self.outcome, context)
            out.append(_scored(group, values, "confidence"))
        return out

    def _certainty(self, trajectory: Trajectory) -> float:
        if not len(trajectory):
            return 0.0
        if self.of == "likelihood" or trajectory.entropy is None:
            return float(np.exp(np.mean(trajectory.logp)))
        return -float(np.mean(trajectory.entropy))


class IntervalConsensus(Signal, name="interval_consensus"):
    """Rewards an interval answer by its overlap with the mean interval of the group, weighted by how much the group agrees
    (URPA, arXiv:2508.06317).

    The last two numbers or times of a text are (start, end): ``3.5 to 7``, ``10-20``, ``12:05 - 12:30``. With the mean start and end
    over the readable rollouts as pseudo-label and u = std(starts) + std(ends), the confidence is c = exp(-`gamma` u / L) and the
    reward `format` * readable + (1 - `format`) * c * IoU. L is `length`, else the length of what is searched where the problem says
    it (metadata ``length``), else that of the pseudo-label: the confidence does not depend on the unit. Fewer than two readable
    rollouts: reward 0 for all. Under standard-deviation scaling c cancels
    (it is the same for the whole group); `weigh` = false leaves it out of the reward, so that ``group_weight=component`` can
    apply it after scaling.
    """

    provides = PSEUDO
    gamma: float = Field(1.0, ge=0.0)
    length: float | None = Field(None, gt=0.0, description="what the spread is measured in (none: the problem's own)")
    format: float = Field(0.5, ge=0.0, le=1.0)
    weigh: bool = True
    outcome: str = "correct"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        task = outlook.task
        if task is None or not getattr(task, "labelled", True):
            return None
        answers = [answer for index in range(min(len(task), 16)) if (answer := task.train(index).answer)]
        if not answers or any(interval(answer) for answer in answers):
            return None
        return (
            f"of use: no answer of this task is an interval ('{answers[0]}'), so that whatever two numbers stand last are compared; "
            "choose a task whose answers have a start and an end (--task find_span)"
        )

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        return [self._score(group, context) for group in groups]

    def _score(self, group: Group, context: Context) -> Group:
        spans = [interval(t.text) for t in group.trajectories]
        known = np.array([span for span in spans if span is not None]).reshape(-1, 2)
        if len(known) < 2:
            return _scored(group, [0.0] * len(spans), "overlap", confidence=0.0)
        target = tuple(known.mean(0))
        spread = float(known.std(0).sum())
        scale = self.length or _length(group) or float(target[1] - target[0])
        confidence = math.exp(-self.gamma * spread / scale) if scale > 0 else float(spread == 0)
        context.log("filter/confidence", confidence)
        factor = confidence if self.weigh else 1.0
        rewards = [
            0.0 if span is None else self.format + (1 - self.format) * factor * overlap(span, target) for span in spans
        ]
        return _scored(group, rewards, "overlap", confidence=confidence)


def _length(group: Group) -> float | None:
    """The length of what is searched, where the problem says it."""
    told = getattr(group.problem, "metadata", {}).get("length")
    return float(told) if isinstance(told, (int, float)) and told > 0 else None


def widened(span: tuple[float, float], alpha: float) -> tuple[float, float]:
    """A labelled interval made softer: both ends moved out by `alpha` of its length (URPA's source stage)."""
    slack = alpha * (span[1] - span[0])
    return span[0] - slack, span[1] + slack


def _scored(group: Group, rewards: list[float], name: str, extras: list[dict] | None = None, **shared: float) -> Group:
    """The group with `rewards` as scalar reward and as component `name`; further components shared by all its members. A hidden
    verdict goes from the components, which credit may read, to the record's `extra`."""
    done = []
    for i, (t, r) in enumerate(zip(group.trajectories, rewards)):
        components = {key: value for key, value in t.rewards.items() if key != LABEL}
        hidden = {LABEL: t.rewards[LABEL]} if LABEL in t.rewards else {}
        extra = {**t.extra, **hidden, **(extras[i] if extras else {})}
        done.append(t.replace(reward=r, rewards={**components, name: r, **shared}, weights={name: 1.0}, extra=extra))
    return group.replace(trajectories=tuple(done))


def _compare(trajectories: tuple[Trajectory, ...], pseudo: list[float], outcome: str, context: Context) -> None:
    """Agreement of pseudo-rewards with the task's verdicts, where there are any: over rollouts, and of the winning answer."""
    verdicts = [t.rewards.get(LABEL, t.rewards.get(outcome)) for t in trajectories]
    known = [(p, verdict >= 1 - 1e-9) for p, verdict in zip(pseudo, verdicts) if verdict is not None]
    if not known:
        return
    context.log("filter/accuracy", float(np.mean([right for _, right in known])), len(known))
    context.log("filter/pseudo_reward_accuracy", float(np.mean([(p > 0.5) == right for p, right in known])))
    winners = [right for p, right in known if p > 0.5]
    context.log("filter/pseudo_label_accuracy", float(np.mean(winners)) if winners else 0.0)
