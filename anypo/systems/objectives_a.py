"""Systems that change how advantages become a loss, first half: off-policy reuse, prefix ratios, balanced clips, experts,
masks, curvature, windows, token heterogeneity, contrast, risk, entropy targets, reference soups, conflict tokens."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.lengthwise import LengthDeviation, LengthMean
from anypo.credit.critics.gae import GAE
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.risk import RiskBundles
from anypo.credit.select.window import CurrentWindow, ReplaceByTargets
from anypo.credit.shape.conflict import ConflictTokens, EntropyFilter
from anypo.filter import Screen, SuccessGate
from anypo.generate import AdaptiveTemperature, ShiftedTargets, Windowed, WithExperts
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.preference.contrastive import Contrastive
from anypo.objective.ratios import MinimumPrefix, ScoreFunction, SequenceRatio, TokenRatio
from anypo.objective.regularisers.terms import KLConvex
from anypo.objective.supervised import Annealed, Blend, Summed, Supervised
from anypo.objective.trusts.adaptive import BalancedClip
from anypo.objective.trusts.clips import Clip, RecentredClip, SoftClip, Unclipped
from anypo.objective.trusts.entropy import HeterogeneousClip
from anypo.objective.trusts.masks import Mask, OneSide
from anypo.replay import Buffer
from anypo.systems.baselines import dapo, grpo, ppo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, ReincarnatedReference, SoupReference
from anypo.update.rules.curvature import CurvatureRejection


@system("remix", title="ReMix-GRPO", paper="arXiv:2507.06892", base="grpo")
def remix() -> Algorithm:
    """GRPO that reuses recent rollouts first and hands over to on-policy training later. Up to step 50, 40 % of every batch
    comes from the last two steps; the ratio divides by the policy that sampled a token, and the clip window is centred on where
    the step's starting policy already stands for it (c - 0.2, c + 0.2). Every batch is used twice. A KL term pulls to
    the base model (its share falls from 1 to 1/2 between steps 50 and 100) and to the step's starting policy. At step 50 the
    base model of that term becomes the policy of that moment, and old data is no longer used. The KL weight (0.001 here) is not
    published."""
    return grpo().replace(
        replay=Buffer(fraction=0.4, window=2, until=50),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=RecentredClip(low=0.2, high=0.2),
            aggregate=SequenceMean(),
            regularise=(KLConvex(coefficient=0.001),),
        ),
        update=GradientUpdate(epochs=2, reference=ReincarnatedReference(at=50)),
    )


@system("minpro", title="MinPRO", paper="arXiv:2601.22718", base="cispo")
def minpro() -> Algorithm:
    """CISPO with the importance weight of a token's whole prefix instead of its own ratio alone. The exact weight, the product of
    all ratios up to the token, has exponential variance; MinPRO multiplies the token's ratio by the smallest ratio before it
    (1 for the first token). The weight is cut off at 1.28 (a guess: not published), has no floor, and is detached; mean over all
    tokens."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=MinimumPrefix(), trust=SoftClip(low=1.0, high=0.28)),
    )


@system("bapo", title="Balanced Policy Optimization with Adaptive Clipping", paper="arXiv:2510.18927", base="grpo")
def bapo() -> Algorithm:
    """GRPO whose clip bounds are searched anew for every update: starting from ratios 0.6 and 1.2, first the lower bound rises (to
    at most 0.9), then the upper one (to at most 3.0), in steps of 0.05, until positive advantages contribute as much as
    negative ones. Negative advantages are also clipped at 3 (dual clip); mean over all tokens. Order and bounds are those
    of the released code and its README."""
    return Algorithm(credit=Pipeline(scale=StandardDeviation()), objective=PolicyGradient(trust=BalancedClip()))


def _with_experts(experts: Supervised, mixing: Annealed) -> Algorithm:
    return grpo().replace(
        generate=WithExperts(), objective=Blend(rollouts=grpo().objective, experts=experts, mixing=mixing)
    )


@system("chord", title="CHORD-mu", paper="arXiv:2508.11408", base="grpo")
def chord() -> Algorithm:
    """GRPO and supervised learning from expert solutions in one loss, (1 - mu) GRPO + mu SFT, each a mean over its own samples.
    mu falls from 0.9 to 0.05 over 200 steps as half a cosine: imitate first, explore later. One solution per prompt beside the
    rollouts."""
    return _with_experts(Supervised(), Annealed(peak=0.9, valley=0.05, warmup=0, decay=200))


@system("chord-phi", title="CHORD-phi", paper="arXiv:2508.11408", base="chord")
def chord_phi() -> Algorithm:
    """CHORD with a weight per expert token instead of a schedule: p (1 - p), detached, where p is the policy's probability of the
    token. It peaks at one half and vanishes for what is already known and for what is out of reach, so experts neither collapse
    nor explode the entropy. mu is 0.1 throughout."""
    return _with_experts(Supervised(weight="phi"), Annealed(peak=0.1, valley=0.1, warmup=0, decay=0))


@system("rec", title="REC-OneSide-NoIS", paper="arXiv:2509.24203", base="reinforce")
def rec() -> Algorithm:
    """Group-relative REINFORCE off-policy: reward minus group mean times the gradient of log pi, with no importance weight, for all
    tokens but those that have already moved more than 20 % in the direction of their advantage. The mask is what stabilises;
    with `objective.trust.weight=ratio` it has exactly the gradient of PPO's clip. Other regions (two_side, ring), weights
    (truncated, advantage) and sequence-level tests are fields of the same part. Mean over all tokens."""
    return Algorithm(objective=PolicyGradient(trust=Mask(region=OneSide(low=0.2, high=0.2))))


@system("capo-curvature", title="Curvature-Aware Policy Optimization", paper="arXiv:2510.00819", base="grpo")
def capo_curvature() -> Algorithm:
    """GRPO that masks tokens before each optimiser step: a last-layer model predicts, from the present Adam moments, what a step on
    one token alone would do; tokens whose predicted change of the distribution (half the variance of their logit changes, about
    the KL) exceeds 0.01 nats, or whose predicted change of the objective is negative, are left out of the loss. The paper
    tunes its thresholds per task and does not print them."""
    return grpo().replace(update=GradientUpdate(rules=(CurvatureRejection(low=0.0, shift=0.01),)))


@system("t-ppo", title="Truncated PPO", paper="arXiv:2506.15050", base="ppo")
def t_ppo() -> Algorithm:
    """PPO that trains on partial answers. Every step extends each slot by one window of tokens; finished answers leave, others go on
    in the next step with the newer policy. The policy learns from this window's tokens only, by GAE in which the value
    after an unfinished window equals the last known one and no outcome is paid yet; the critic learns from finished
    answers only, on all their tokens, with the Monte Carlo return. One pass per batch, so each token is trained once,
    right after it was sampled. Advantages are not whitened: centring them would move the tokens of unfinished answers about
    which the critic knows nothing yet."""
    learned = GAE(
        lam=0.95,
        whiten=False,
        value_lam=1.0,
        truncated="last",
        value_on="finished",
        coefficient=0.1,
        select=(CurrentWindow(),),
    )
    return Algorithm(generate=Windowed(), credit=learned, objective=PolicyGradient())


@system(
    "hapo-token",
    title="Heterogeneous Adaptive Policy Optimization",
    paper="github.com/starriver030515/HAPO",
    base="dapo",
)
def hapo_token() -> Algorithm:
    """DAPO in which every token is treated by its normalised entropy h in [-1, 1]. Advantages are standardised over the tokens of a
    prompt's rollouts, not over rollouts (plain statistics where some would exceed 5). Confident tokens may fall further before
    they are clipped, uncertain ones rise further, up to twice the range. Advantages of uncertain tokens are amplified
    once their ratio has moved, those of confident tokens damped until it has. Dual clip at 3. Tokens are sampled at temperatures up
    to 5 % higher where the policy is uncertain and lower where it is sure, by the entropies of the step before; the ratios are those
    of the untempered policy."""
    base = dapo()
    return base.replace(
        generate=AdaptiveTemperature(width=0.05),
        credit=base.credit.replace(centre=LengthMean(fallback=5.0), scale=LengthDeviation(fallback=5.0)),
        objective=PolicyGradient(trust=HeterogeneousClip(low=0.2, high=0.28)),
    )


@system("copg", title="Contrastive Policy Gradient", paper="arXiv:2406.19185", family="preference", base="rloo")
def copg() -> Algorithm:
    """Pairs of responses to one prompt, from any distribution, each the other's baseline: minimise (R - R' - beta (s - s'))^2 with
    s = log pi(y) - log pi_ref(y) summed over tokens. Its only optimum is the reference tilted by exp(R / beta), without
    importance weights, clipping or critic. Two responses per prompt; beta 0.05 (the paper's range is 0.03 to 0.1)."""
    return Algorithm(
        control=Uniform(prompts=32, samples=2),
        objective=Contrastive(beta=0.05),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("riskpo", title="Risk-based Policy Optimization", paper="arXiv:2510.00911", base="gspo")
def riskpo() -> Algorithm:
    """Optimises a lower tail of scores instead of their mean. Responses to five prompts are bundled at random; a bundle's score is
    the sum of their rewards, and its advantage weighs the lowest fifth of scores 1.5 times, the middle once and the highest
    fifth not at all, with quantiles tracked across steps. Advantages are centred over the bundles of a set (a baseline; the
    paper does not say). Length-normalised sequence ratio, clipped as in GSPO; mean over responses."""
    return Algorithm(
        control=Uniform(prompts=10, samples=8),
        credit=RiskBundles(bundle=5, alpha=0.2, beta=0.8, tail=0.5),
        objective=PolicyGradient(ratio=SequenceRatio(), trust=Clip(low=3e-4, high=4e-4), aggregate=SequenceMean()),
    )


@system("aepo-entropy", title="Arbitrary Entropy Policy Optimization", paper="arXiv:2510.08141", base="grpo")
def aepo_entropy() -> Algorithm:
    """GRPO that holds the policy's entropy at a chosen level without an entropy bonus. While it is at or below the level, a few
    successful rollouts drawn at temperature 1.2 replace the batch's first ones and are trained on with advantage 1; while it
    is above, half as many drawn at 0.8. Imitating one's own samples of another temperature moves the entropy towards that
    temperature's. The level (0.5 nats per token) is the user's choice."""
    return grpo().replace(
        generate=ShiftedTargets(entropy=0.5, hot=1.2, cold=0.8, most=8),
        credit=Pipeline(scale=StandardDeviation(), select=(ReplaceByTargets(),)),
    )


@system("hpt", title="Hybrid Post-Training", paper="arXiv:2509.04419", base="grpo")
def hpt() -> Algorithm:
    """Chooses for every prompt between reinforcement and supervised learning: where at least one rollout succeeded, GRPO on the
    rollouts; where all failed, and the group has no gradient, the expert solution instead. The loss is the GRPO term over the
    rollouts that stayed plus the token-mean likelihood of the solutions. As the policy improves, the supervised share
    falls by itself."""
    return grpo().replace(
        generate=WithExperts(),
        filter=Screen(survival=(SuccessGate(gate=0.0),)),
        objective=Blend(rollouts=grpo().objective, experts=Supervised(), mixing=Summed(coefficient=1.0)),
    )


@system("salsa", title="Soup-based Alignment Learning", paper="arXiv:2411.01798", family="preference", base="ppo")
def salsa() -> Algorithm:
    """RLHF's PPO with another reference: the average, parameter by parameter, of the initial policy and a second model fine-tuned
    from the same ancestor, frozen. The penalty for leaving it is not zero at the start, and the same KL budget then covers a
    region around a better point. Needs the second model: --set update.reference.models='[PATH]'."""
    return ppo().replace(update=GradientUpdate(epochs=4, reference=SoupReference(own=0.5)))


@system(
    "gtpo-conflict", title="Group-relative Trajectory-based Policy Optimization", paper="arXiv:2508.03772", base="grpo"
)
def gtpo_conflict() -> Algorithm:
    """GRPO without clip, KL or reference, protecting what right and wrong answers share. In the runs of tokens that a prompt's right
    and wrong answers have in common from the start, or from the end, right answers count double and wrong ones not
    at all; a response is divided by its number of such tokens, as in the released code. Responses whose mean entropy exceeds
    0.7 nats are dropped, the others lose 0.1 times their mean entropy from the advantage. Score function, mean over tokens
    then over responses."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation(), shape=(EntropyFilter(), ConflictTokens())),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceMean()),
    )
