"""The baselines of everything else, with their published defaults.

Sizes of a step (prompts, rollouts, minibatches, learning rate) are those of the library for all of them: they belong to the
model and the machine. Each docstring says where a paper differs in something that belongs to the method.
"""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import LeaveOneOut, Uncentred
from anypo.credit.centres.lengthwise import GreedyBaseline, LengthMean
from anypo.credit.critics.gae import GAE, Returns
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shaping.outcomes import Overlong
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.filter import DropDegenerate, Screen
from anypo.generate.groups.greedy import WithGreedy
from anypo.objective.aggregates import ConstantLength, SequenceMean, SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction, SequenceRatio
from anypo.objective.trusts.clips import Clip, SoftClip, Unclipped
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("reinforce", title="REINFORCE", paper="Williams 1992, doi:10.1007/BF00992696")
def reinforce() -> Algorithm:
    """The score-function estimator: log-probability of the whole response times its reward, summed over tokens, averaged over
    responses. No baseline, no importance ratio, no trust region: unbiased on fresh data, and the noisiest of all."""
    return Algorithm(
        credit=Pipeline(centre=Uncentred()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
    )


@system("reinforce++", title="REINFORCE++", paper="arXiv:2501.03262", base="reinforce")
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


@system("grpo", title="Group Relative Policy Optimization", paper="arXiv:2402.03300", base="ppo")
def grpo() -> Algorithm:
    """Replaces PPO's critic by the group: the advantage of a rollout is its reward minus the mean of its group, divided by
    the group's standard deviation, equal for all its tokens. Clipped token ratio, mean over tokens then over rollouts.
    The paper adds 0.04 times a k3 estimate of the KL to the initial model, which most later work leaves out, as here:
    --set objective.regularise='[{part: kl, coefficient: 0.04}]' --set update.reference=frozen puts it back."""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(aggregate=SequenceMean()))


@system("dr-grpo", title="GRPO Done Right", paper="arXiv:2503.20783", base="grpo")
def dr_grpo() -> Algorithm:
    """GRPO without its two biases: no division by the group's standard deviation (which over-weighs very easy and very hard
    prompts) and no division by a response's own length (which favours short right and long wrong answers). Token
    surrogates are summed and divided by rollouts x a constant length."""
    return Algorithm(credit=Pipeline(), objective=PolicyGradient(aggregate=ConstantLength()))


@system("dapo", title="Decoupled Clip and Dynamic Sampling Policy Optimization", paper="arXiv:2503.14476", base="grpo")
def dapo() -> Algorithm:
    """GRPO with four changes: the clip is wider upwards (0.2 below, 0.28 above), so that unlikely tokens can grow; prompts whose
    rollouts all score alike are replaced by generating again, up to ten times; the loss is a mean over all tokens; and answers
    that come within 4096 tokens of the 20480 limit lose up to 1 point, linearly (set credit.shaping.0.limit and .buffer to fit
    generate.max_new)."""
    return Algorithm(
        filter=Screen(survival=(DropDegenerate(),), rounds=10),
        credit=Pipeline(shaping=(Overlong(limit=20480, buffer=4096),), scale=StandardDeviation()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28)),
    )


@system("gspo", title="Group Sequence Policy Optimization", paper="arXiv:2507.18071", base="grpo")
def gspo() -> Algorithm:
    """GRPO whose importance ratio belongs to the response, as the reward does: the geometric mean of its token ratios. Whole
    responses are clipped, in a band of 3e-4 below and 4e-4 above 1; mean over responses."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=SequenceRatio(), trust=Clip(low=3e-4, high=4e-4), aggregate=SequenceMean()),
    )


@system("cispo", title="Clipped IS-weight Policy Optimization", paper="arXiv:2506.13585", base="grpo")
def cispo() -> Algorithm:
    """Clips the importance weight instead of the update: REINFORCE on group advantages, every token weighted by its ratio, cut
    off at 1.28 and detached, so no token ever loses its gradient. No lower bound; mean over all tokens. The paper tunes the
    upper bound and does not print it; 1.28 is the value its public implementations start from."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(trust=SoftClip(low=1.0, high=0.28))
    )


@system("remax", title="ReMax", paper="arXiv:2310.10505", base="reinforce")
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


@system("lite-ppo", title="Lite PPO (Tricks or Traps)", paper="arXiv:2508.08221", base="ppo")
def lite_ppo() -> Algorithm:
    """PPO's clipped surrogate without a critic and two choices on top: rewards are centred by their group but divided by one
    standard deviation over the whole batch, so easy and hard prompts are not blown up; and the loss is a mean over all
    tokens. No KL, symmetric clip. (--set credit.scale.of=centred divides by the deviation of the centred rewards instead.)"""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation(scope="batch", ddof=1, eps=1e-8)), objective=PolicyGradient()
    )
