"""Systems that change how advantages become a loss, last part: covariance control of entropy, mirror descent, bounded ratios,
chunks of an interaction, offline learning from positive advantages, one statistic of the batch, repaired old logits."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import Uncentred
from anypo.credit.critics.gae import GAE
from anypo.credit.granularity.turns import TurnDiscount
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.leftover import Leftover
from anypo.objective.aggregates import SequenceMean, SequenceSum
from anypo.objective.corrections import Banded
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import SequenceRatio, TokenRatio
from anypo.objective.regularisers.mirror import MirrorDescent
from anypo.objective.trusts.adaptive import EssCap
from anypo.objective.trusts.bounded import BoundedRatio, Tapered
from anypo.objective.trusts.clips import Clip, SoftClip, Unclipped
from anypo.objective.trusts.covariance import ClipCov, KLCov
from anypo.replay import Dataset
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, VersionedReference


@system("clip-cov", title="Clip-Cov", paper="arXiv:2505.22617", base="grpo")
def clip_cov() -> Algorithm:
    """GRPO against the collapse of entropy. A gradient step lowers the entropy about as much as advantage and log-probability
    covary; of the tokens with (A - mean A)(log pi - mean log pi) between 1 and 5 that the clip leaves alone, a random few (0.02 %
    of all tokens, at least one) lose their gradient. Clip 0.2 on both sides (the paper's own recipe opens it to 1), mean
    over all tokens, no KL, no entropy bonus."""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(trust=ClipCov()))


@system("kl-cov", title="KL-Cov", paper="arXiv:2505.22617", base="grpo")
def kl_cov() -> Algorithm:
    """The same diagnosis as clip-cov with another remedy: the 0.2 % of tokens with the largest covariance of advantage and
    log-probability pay |log pi - log pi_old| times beta = 1; no clip anywhere. Mean over all tokens, no reference, no
    entropy bonus. (0.2 % is the paper's share for 7B models, 0.02 % for 32B.)"""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(trust=KLCov()))


@system("mdpo", title="Mirror Descent Policy Optimization", paper="arXiv:2005.09814", family="control", base="ppo")
def mdpo() -> Algorithm:
    """PPO without a clip: the surrogate r A minus KL(pi || pi_old) / t, whose exact optimum is pi_old exp(t A) / Z. t falls
    linearly from 1 to 0 over training, so the trust region closes. The KL's gradient is zero at pi_old: several optimiser steps
    per batch are what makes it a trust region; ten epochs. Advantages by GAE with gamma 0.99; the critic's change is clipped at
    0.2. The paper takes the KL in closed form; here it is estimated on the sampled decisions, without bias."""
    return Algorithm(
        credit=GAE(gamma=0.99, lam=0.95, clip=0.2),
        objective=PolicyGradient(trust=Unclipped(), regularise=(MirrorDescent(),)),
        update=GradientUpdate(epochs=10, max_grad_norm=0.5),
    )


@system(
    "bpo-bounded-ratio", title="Bounded Policy Optimization", paper="arXiv:2604.18578", family="control", base="ppo"
)
def bpo_bounded_ratio() -> Algorithm:
    """PPO with the clip replaced by a target. "Maximise E[r A] with every ratio within 1 +- 0.2" has the solution
    r* = 1 + 0.2 sign(A); the loss is |A| |r - r*|. It has PPO's gradient up to the target and, beyond it, pulls back where PPO
    stops pulling. The paper's sign is that of Q minus its median over actions; with one action per state the advantage's own
    sign stands for it. Ten epochs, GAE with gamma 0.99, lambda 0.95."""
    return Algorithm(
        credit=GAE(gamma=0.99, lam=0.95),
        objective=PolicyGradient(trust=BoundedRatio()),
        update=GradientUpdate(epochs=10, max_grad_norm=0.5),
    )


@system("gbpo", title="Group Bounded Policy Optimization", paper="arXiv:2604.18578", base="grpo")
def gbpo() -> Algorithm:
    """The bounded-ratio loss |A| |r - r*| on group advantages. Responses above the median of their group have the target ratio 1.2,
    those below 0.8, and those at the median 1: where more than half of a group is right, right answers are held and wrong
    ones lowered. Mean over tokens, then over responses. (How the paper estimates the median is not published; the group's own
    is this library's choice.)"""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=BoundedRatio(threshold="quantile"), aggregate=SequenceMean()),
    )


@system(
    "ipa-chunk", title="Interaction-Perceptive Agentic Policy Optimization", paper="arXiv:2512.24873", family="agent",
    base="reinforce",
)  # fmt: skip
def ipa_chunk() -> Algorithm:
    """Agents act in chunks: all tokens between two observations. The return of a chunk is the outcome times 0.95 per chunk that
    follows it, equal for its tokens. Chunks of successful episodes are imitated, without an importance ratio; those of failed
    ones are weighted by the geometric mean of their token ratios, at most 1. Chunks whose trainer-to-sampler ratio (again
    a geometric mean) exceeds 5 are left out. Sum over tokens, no baseline. With rewards 0 and 1 failures have no gradient;
    --set credit.shaping='[{part: rescale, low: 0.5}]' makes them -1 and 1. generate=rollback begins hard
    prompts late in an expert's solution, and earlier as they succeed."""
    chunk = {"span": "turn", "normalise": True}
    return Algorithm(
        credit=Pipeline(centre=Uncentred(), granularity=TurnDiscount(gamma=0.95)),
        objective=PolicyGradient(
            ratio=SequenceRatio(**chunk),
            trust=Tapered(),
            aggregate=SequenceSum(),
            corrections=(
                Banded(
                    ratio=SequenceRatio(numerator="old", denominator="behaviour", **chunk),
                    low=0.0,
                    high=5.0,
                    weigh=False,
                ),
            ),
        ),
    )


@system(
    "a-lol", title="Advantage-based Leftover Lunch RL", paper="arXiv:2305.14718", family="preference", base="reinforce"
)
def a_lol() -> Algorithm:
    """Offline policy gradient on responses the reference model wrote, with the whole response as one action. Advantage: its reward
    minus the reference's value of the prompt, which is the mean reward of the prompt's stored responses (the paper trains
    a small head for it). Responses with a negative advantage are dropped, the others drawn in proportion to it. Loss: A times
    the importance ratio pi(y) / pi_ref(y), clipped to [0.1, 1.9] and detached, times -log pi(y), summed over tokens.
    --set objective.ratio='{part: token, denominator: ref}' is A-LoL seq, --set objective.ratio=score A-LoL ref-free."""
    return Algorithm(
        replay=Dataset(),
        credit=Pipeline(select=(Leftover(share=0.5),)),
        objective=PolicyGradient(
            ratio=SequenceRatio(normalise=False, denominator="ref"),
            trust=SoftClip(low=0.9, high=0.9),
            aggregate=SequenceSum(),
        ),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("p3o-ess", title="Policy-on, policy-off optimisation", paper="arXiv:2605.12380", base="cispo")
def p3o_ess() -> Algorithm:
    """One statistic in place of clip range, truncation constant and KL weight: the effective sample size of the token ratios
    pi / pi_behaviour over the batch, as a share in (0, 1]. A token's score function is weighted by its ratio, at most that share;
    one minus the share weighs a k3 penalty between sampler and policy. On fresh data this is REINFORCE with group advantages; as
    data ages the step shrinks and the pull back grows, with nothing to tune. Mean over all tokens."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=EssCap()),
    )


@system(
    "missing-old-logits", title="Exact decoupled correction", paper="arXiv:2605.12070", family="system", base="grpo"
)
def missing_old_logits() -> Algorithm:
    """Asynchronous GRPO whose ratio to the sampler is split where it should be: into trainer against sampler at the version that
    wrote the token (an engine's error: outside [0.5, 2] the token is left out, inside it is weighted) and the present policy
    against that version (staleness: PPO's clip at 0.2). The trainer's log-probabilities of past versions come from snapshots of the
    weights. Without them the split is made at the step's starting policy, which takes staleness for engine error:
    --set update.reference=none --set objective.ratio=token --set objective.corrections.0.ratio.numerator=old. An
    average of weights stands in for the snapshots with --set update.reference='{part: ema, decay: 0.9}' (PPO-EWMA). The
    thresholds are not published."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="ref"),
            trust=Clip(low=0.2, high=0.2),
            corrections=(Banded(ratio=TokenRatio(numerator="ref", denominator="behaviour"), low=0.5, high=2.0),),
            aggregate=SequenceMean(),
        ),
        update=GradientUpdate(reference=VersionedReference()),
    )
