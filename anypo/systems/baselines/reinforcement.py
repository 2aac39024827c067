"""REINFORCE and its baselines, and PPO: what everything else is compared with, with their published defaults.

Sizes of a step (prompts, rollouts, minibatches, learning rate) are those of the library for all of them: they belong to the
model and the machine. Each docstring says where a paper differs in something that belongs to the method.
"""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import LeaveOneOut, Uncentred
from anypo.credit.centres.lengthwise import GreedyBaseline, LengthMean
from anypo.credit.critics.gae import GAE, Returns
from anypo.credit.pipeline import Pipeline
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.generate.groups.greedy import WithGreedy
from anypo.objective.aggregates import SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system(
    "reinforce",
    title="REINFORCE",
    paper="Williams 1992, doi:10.1007/BF00992696",
    excuses={"common offset": "has no baseline: that is what it is the baseline of"},
)
def reinforce() -> Algorithm:
    """The score-function estimator: log-probability of the whole response times its reward, summed over tokens, averaged over
    responses. No baseline, no importance ratio, no trust region: unbiased on fresh data, and the noisiest of all."""
    return Algorithm(
        credit=Pipeline(centre=Uncentred()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
    )


@system(
    "reinforce++",
    title="REINFORCE++",
    paper="arXiv:2501.03262",
    base="reinforce",
    excuses={"reward offset": "whitens over the batch, which removes a common offset only"},
)
def reinforce_plus_plus() -> Algorithm:
    """REINFORCE with PPO's stabilisers and no critic. Every token pays 0.01 times its log-ratio to the initial model (k1) out of
    the reward; its advantage is the reward to go, whitened over all tokens of the whole batch instead of within a prompt.
    Clipped token ratio, mean over tokens."""
    return Algorithm(
        credit=Returns(shaping=(RewardKL(coefficient=0.01),)),
        objective=PolicyGradient(),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("rloo", title="REINFORCE Leave-One-Out", paper="arXiv:2402.14740", base="reinforce")
def rloo() -> Algorithm:
    """REINFORCE on whole responses, with the mean reward of the other rollouts of the prompt as baseline, which keeps the
    estimator unbiased. The reward pays 0.05 times the log-ratio to the initial model. Sum over tokens, mean over responses,
    no clipping."""
    return Algorithm(
        credit=Pipeline(shaping=(RewardKL(coefficient=0.05),), centre=LeaveOneOut()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("ppo", title="Proximal Policy Optimization", paper="arXiv:1707.06347")
def ppo() -> Algorithm:
    """Several passes over each batch with the token ratio clipped to 1 +- 0.2. Advantages come from a learned critic by
    generalised advantage estimation (gamma 1, lambda 0.95), whitened; the critic regresses on the lambda-return, its change
    clipped to 0.2, weight 0.1. As in RLHF, every token pays 0.05 times its log-ratio to the initial model. Four epochs."""
    return Algorithm(
        credit=GAE(lam=0.95, coefficient=0.1, clip=0.2, shaping=(RewardKL(coefficient=0.05),)),
        objective=PolicyGradient(),
        update=GradientUpdate(epochs=4, reference=FrozenReference()),
    )


@system(
    "remax",
    title="ReMax",
    paper="arXiv:2310.10505",
    base="reinforce",
    excuses=dict.fromkeys(
        ("reward offset", "common offset"),
        "its baseline is the greedy rollout's reward, which the offset must move too",
    ),
)
def remax() -> Algorithm:
    """REINFORCE with the reward of the prompt's own greedy answer as baseline: one extra decoding per prompt instead of a critic
    or a group. Unbiased, because the greedy answer does not depend on the sample. Sum over tokens, mean over responses."""
    return Algorithm(
        generate=WithGreedy(),
        credit=Pipeline(centre=GreedyBaseline()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
    )


@system("opo", title="On-Policy RL with Optimal Reward Baseline", paper="arXiv:2505.23585", base="grpo")
def opo() -> Algorithm:
    """Exactly on-policy REINFORCE with the baseline that minimises the gradient's variance when a response's squared gradient
    norm grows with its length: the group's mean reward weighted by length. No division by a deviation, no KL, no entropy term, no
    clip; one update per batch; mean over all tokens."""
    return Algorithm(
        credit=Pipeline(centre=LengthMean()), objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped())
    )
