"""Methods for rollouts of an older policy or another engine: reuse, two ratios, truncated weights, effective sample sizes."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.optimal import OptimalBaseline
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.objective.aggregates import SequenceMean, SequenceSum
from anypo.objective.corrections import Truncated
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction, SequenceRatio, TokenRatio
from anypo.objective.regularisers.terms import KLConvex
from anypo.objective.trusts.adaptive import EssCap
from anypo.objective.trusts.clips import RecentredClip, Unclipped
from anypo.objective.trusts.masks import Mask, OneSide
from anypo.replay import Buffer, Delayed
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate, ReincarnatedReference
from anypo.update.rules.rates import EssRate


@system("remix", title="ReMix-GRPO", paper="arXiv:2507.06892", base="grpo")
def remix() -> Algorithm:
    """GRPO that reuses recent rollouts first and hands over to on-policy training later. For the first seventh of the run (50 of the
    350 steps of its 1.5B model), 40 % of every batch comes from the last two steps; the ratio divides by the policy that sampled a
    token, and the clip window is centred on where the step's starting policy already stands for it (c - 0.2, c + 0.2). Every batch
    is used twice. A KL term pulls to the base model (from then on its share falls from 1 to 1/2, over another seventh) and to the
    step's starting policy pi_k (the paper names pi_{k-1}, one step older). At the handover the base model of that term becomes the
    policy of that moment, and old data is no longer used. The KL weight (0.001 here) is not published; nor is that of the entropy
    bonus, which is left out (--set objective.regularise.1='{part: entropy}'). --set replay.until=50 --set update.reference.at=50 --set
    objective.regularise.0.hold=50 --set objective.regularise.0.every=10 are the paper's steps."""
    handover = 1 / 7
    return grpo().replace(
        replay=Buffer(fraction=0.4, window=2, until=handover),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=RecentredClip(low=0.2, high=0.2),
            aggregate=SequenceMean(),
            regularise=(KLConvex(coefficient=0.001, hold=handover, every=handover / 5),),
        ),
        update=GradientUpdate(epochs=2, reference=ReincarnatedReference(at=handover)),
    )


@system("minirl", title="MiniRL", paper="arXiv:2512.01374", base="reinforce")
def minirl() -> Algorithm:
    """The first-order approximation of the sequence-level objective: REINFORCE with the reward minus the group's mean, summed over
    tokens (any length normalisation breaks the approximation). Every token is weighted by its whole ratio current / sampler,
    cut off at 5, which repairs the engine's mismatch and staleness at once; the ratio to the step's starting policy only
    decides which tokens drop out, above 1.27 with A > 0 and below 0.8 with A < 0. No KL. Four minibatches per batch: the paper
    trains with one, two, four and eight, and the mask is idle with one. (Routing replay, the paper's remedy for mixtures of experts,
    needs an engine that records expert choices.)"""
    return Algorithm(
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=Mask(region=OneSide(low=0.2, high=0.27), weight="truncated", test=TokenRatio(), low=1.0, high=4.0),
            aggregate=SequenceSum(),
        ),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system("vcpo", title="Variance-Controlled Policy Optimization", paper="arXiv:2602.17616", base="reinforce")
def vcpo() -> Algorithm:
    """For stale rollouts: REINFORCE, each trajectory weighted by the product of its ratios to the sampler, cut off at 8, with two
    controls of the variance that such weights bring. The learning rate of a step is multiplied by the square root of the
    weights' effective sample size over their number; and the baseline is the one of least variance, the group's rewards
    weighted by the squared norm of each trajectory's weighted gradient (one backward pass each). Divided by the group's
    deviation; mean over tokens, then over responses; no clip, no KL; one optimiser step per batch. The norm is that of the sum over
    tokens, so that long answers weigh more, as in the released scripts (mit-han-lab/vcpo c7f030f, normalize_by_length=False); --set
    credit.centre.score=mean takes that of the gradient as it enters this update, the paper's formula. Rollouts are 12 steps old, the
    released staleness on GSM8K (10 to 128 on MATH: --set replay.lag=N), here by waiting instead of by asynchronous generation."""
    return Algorithm(
        replay=Delayed(lag=12),
        credit=Pipeline(centre=OptimalBaseline(), scale=StandardDeviation(ddof=0, eps=0.0)),
        objective=PolicyGradient(
            ratio=ScoreFunction(),
            trust=Unclipped(),
            aggregate=SequenceMean(),
            corrections=(
                Truncated(ratio=SequenceRatio(numerator="current", denominator="behaviour", normalise=False), cap=8.0),
            ),
        ),
        update=GradientUpdate(rules=(EssRate(power=0.5, target=1.0),)),
    )


@system("p3o-ess", title="Policy-on, policy-off optimisation", paper="arXiv:2605.12380", base="cispo")
def p3o_ess() -> Algorithm:
    """One statistic in place of clip range, truncation constant and KL weight: the effective sample size of the token ratios
    pi / pi_behaviour over the batch, as a share in (0, 1]. A token's score function is weighted by its ratio, at most that share;
    one minus the share weighs a k3 penalty between sampler and policy. On fresh data this is REINFORCE with group advantages; as
    data ages the step shrinks and the pull back grows, with nothing to tune. Mean over all tokens. Five passes over every batch and
    rollouts two steps old, the defaults of the released trainer (FeynRL-project/FeynRL, configs/rl_args.yaml: train_steps_per_epoch,
    max_lag)."""
    return Algorithm(
        replay=Delayed(lag=2),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=EssCap()),
        update=GradientUpdate(epochs=5),
    )
