"""Methods without labels: the rollouts' agreement is the reward."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shape.tokens import EntropyResponse, Uncertainty
from anypo.credit.weights import Trusted
from anypo.filter import DropCancelled, FirstShare, IntervalConsensus, MajorityVote, Screen
from anypo.generate import ConfidenceForks, EntropyForks
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.trusts.tail_clip import TailClip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update.gradient import GradientUpdate


@system("ttrl", title="Test-Time Reinforcement Learning", paper="arXiv:2504.16084", base="grpo")
def ttrl() -> Algorithm:
    """GRPO without labels: the answer most rollouts of a prompt agree on is taken for right, and reward is agreement
    with it. All rollouts vote and the first half of them is trained on, in eight updates (the scripts have 64 votes, 32
    samples and one update for each of eight prompts). Where the task has labels, the accuracy of these pseudo-labels is
    reported and never trained on."""
    return grpo().replace(
        filter=Screen(signals=(MajorityVote(),), survival=(FirstShare(),)),
        update=GradientUpdate(minibatches_per_epoch=8),
    )


@system("ettrl", title="ETTRL", paper="arXiv:2508.11356", base="ttrl")
def ettrl() -> Algorithm:
    """Test-time training with two entropy devices. Rollouts are trees: two whole answers, each continued twice from its
    three most uncertain tokens, so 14 answers for about 57 % of the tokens of 14 separate ones; all of them vote. And an
    answer's advantage is multiplied by 1 + (mean entropy of the group - its own) / mean entropy, so that confident
    answers count more; an answer above twice the mean flips its sign in this published form (``credit.shape.0.floor=0``
    repairs it)."""
    return ttrl().replace(
        generate=EntropyForks(trees=2, forks=3, branches=2),
        filter=Screen(signals=(MajorityVote(),)),
        credit=Pipeline(scale=StandardDeviation(), shape=(EntropyResponse(),)),
    )


@system("echo-ttrl", title="ECHO", paper="", base="ttrl")
def echo_ttrl() -> Algorithm:
    """Test-time training with trees gated by entropy and confidence: a rollout forks at its first uncertain, doubtful
    and rising token into up to four branches, and a branch is cut off where it loses confidence; what was finished votes
    and is trained on, what was cut off is not. Advantages are shaped towards uncertain, decisive tokens, and the clip range
    of a response shrinks from 0.2 towards 0.05 as the probability of its last 16 tokens grows, which matters from the second
    of a batch's eight updates on (one for every prompt, as in the launch scripts). In the release (user683/ECHO) none of the
    thresholds of confidence can be met, the trees are switched off in every script, and the shaping has coefficient 0: here
    thresholds are quantiles of the prompt's own rollouts, and the coefficient, 0.2, is ours."""
    return ttrl().replace(
        generate=ConfidenceForks(),
        filter=Screen(signals=(MajorityVote(),), survival=(DropCancelled(),)),
        credit=Pipeline(scale=StandardDeviation(), shape=(Uncertainty(multiply=0.2),)),
        objective=PolicyGradient(trust=TailClip(), aggregate=SequenceMean()),
    )


@system(
    "urpa",
    title="Uncertainty-quantified Rollout Policy Adaptation",
    paper="arXiv:2508.06317",
    base="grpo",
)
def urpa() -> Algorithm:
    """Adapts interval answers without labels: the mean interval of the rollouts is the pseudo-label, the reward half for
    a readable answer and half for the overlap with it, and a confidence that falls with the spread of the rollouts. As a
    factor of the overlap, where the paper has it, the confidence is cancelled by GRPO's standard deviation, since it is the
    same for a whole group; here it multiplies the advantage after scaling (``filter.signals.0.weigh=true`` with
    ``credit.group_weight=none`` is the paper's place). The labelled source stage, with intervals made softer, is not
    part of it."""
    return grpo().replace(
        filter=Screen(signals=(IntervalConsensus(weigh=False),)),
        credit=Pipeline(scale=StandardDeviation(), group_weight=Trusted()),
    )
