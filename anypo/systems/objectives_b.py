"""Systems that change how advantages become a loss, second half: ranking, pairs, stability of the optimum, ratio variance,
engine mismatch, hazards, asynchrony, and a controlled KL."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.groups import LeaveOneOut
from anypo.credit.centres.optimal import OptimalBaseline
from anypo.credit.critics.pessimistic import PessimisticCritic
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shaping.reward_entropy import RewardEntropy
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.objective.aggregates import SequenceMean, SequenceSum
from anypo.objective.corrections import Truncated
from anypo.objective.discriminative import Discriminative, ForwardKL
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.preference.pairwise import Pairwise
from anypo.objective.ratios import ScoreFunction, SequenceRatio, TanhRatio, TokenRatio
from anypo.objective.regularisers.kl_control import KLControl
from anypo.objective.regularisers.terms import Controlled, Entropy, RatioVariance
from anypo.objective.trusts.clips import Unclipped
from anypo.objective.trusts.hazard import Hazard
from anypo.objective.trusts.masks import Mask, OneSide
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate
from anypo.update.gradient import AdamW
from anypo.update.multipliers import DualAscent, Hinge
from anypo.update.rules.rates import EssRate


@system("disco", title="Discriminative Constrained Optimization", paper="arXiv:2505.12366", base="grpo")
def disco() -> Algorithm:
    """With right-or-wrong rewards GRPO maximises the score of right answers minus that of wrong ones, each prompt weighted by
    sqrt(p (1 - p)), p its success rate. DisCO drops that weight and ranks: per prompt with both outcomes, the mean score of the
    right answers minus the soft maximum, tau log mean exp(s / tau), of the wrong ones; the score is the mean log-probability
    of an answer, tau 10 (with objective.score=ratio, the mean token ratio, tau is 1; tau=inf is DisCO-b). No clip: a token-mean
    estimate K of KL(old || pi) is held below 1e-4 by the squared hinge 500 [K - 1e-4]_+^2. Values of the released scripts."""
    return Algorithm(
        objective=Discriminative(
            score="likelihood",
            tau=10.0,
            regularise=(Controlled(of=ForwardKL(coefficient=1.0), limit=1e-4, multiplier=Hinge(strength=1000.0)),),
        ),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system(
    "p3o-pairwise",
    title="Pairwise Proximal Policy Optimization",
    paper="arXiv:2310.00212",
    family="preference",
    base="ppo",
)
def p3o_pairwise() -> Algorithm:
    """Learns from the difference of two responses' rewards, so any offset per prompt drops out, and needs no critic. On fresh data
    D grad( log pi(y1) - log pi(y2) ) / 2, D the difference of r - 0.05 log pi_old/pi_ref; over several epochs weighted by the
    clipped product of both sequence ratios, while each response's own log-ratio (V1; objective.clip=joint: the pair's
    difference, V2) is clipped. Two responses per prompt. The clip ranges (0.2) and the exact place of the clips are this
    project's reading: the paper's public summaries say that weight and update are both clipped, separately or jointly."""
    return Algorithm(
        control=Uniform(prompts=32, samples=2),
        credit=Pipeline(shaping=(RewardKL(coefficient=0.05),)),
        objective=Pairwise(clip="separate"),
        update=GradientUpdate(epochs=4, reference=FrozenReference()),
    )


@system(
    "policy-cliff",
    title="Policy Cliff: the entropy-regularised map",
    paper="arXiv:2507.20150",
    family="theory",
    base="rloo",
)
def policy_cliff() -> Algorithm:
    """Where several answers are equally good, the reward-maximising policy jumps under arbitrarily small changes of the reward; with
    entropy in the return it cannot: the optimum softmax(Q / beta) moves by at most 1 / (beta (1 - gamma)) times the change.
    REINFORCE with a leave-one-out baseline on R - beta log pi(y), the exact gradient of E[R] + beta H (beta 0.01, the choice of
    this project). `anypo.evaluate.stability` measures the cliffs of a reward: ties, gaps, and the policy's response to
    perturbations."""
    return Algorithm(
        credit=Pipeline(shaping=(RewardEntropy(coefficient=0.01),), centre=LeaveOneOut()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
    )


@system("r2vpo", title="Ratio-Variance Regularized Policy Optimization", paper="arXiv:2601.03320", base="grpo")
def r2vpo() -> Algorithm:
    """No clip: E[r A] under the constraint E[(r - 1)^2] <= delta, the variance of the ratio to the policy that sampled, by a
    multiplier lambda that rises and falls with the violation. Every token keeps a gradient, r (A - 2 lambda (r - 1)), and may
    move until r = 1 + A / (2 lambda): the further, the better it was. Old data brakes itself, so --set replay=buffer reuses it.
    GRPO's advantages, mean over tokens. lambda starts at 0.04; delta 0.02 and the multiplier's rate 0.1 are not published."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=Unclipped(),
            regularise=(
                Controlled(
                    of=RatioVariance(coefficient=1.0, ratio=TokenRatio(denominator="behaviour")),
                    limit=0.02,
                    multiplier=DualAscent(initial=0.04, rate=0.1),
                ),
            ),
        ),
    )


@system("minirl", title="MiniRL", paper="arXiv:2512.01374", base="reinforce")
def minirl() -> Algorithm:
    """The first-order approximation of the sequence-level objective: REINFORCE with the reward minus the group's mean, summed over
    tokens (any length normalisation breaks the approximation). Every token is weighted by its whole ratio current / sampler,
    cut off at 5, which repairs the engine's mismatch and staleness at once; the ratio to the step's starting policy only
    decides which tokens drop out, above 1.27 with A > 0 and below 0.8 with A < 0. No KL. (Routing replay, the paper's
    remedy for mixtures of experts, needs an engine that records expert choices.)"""
    return Algorithm(
        objective=PolicyGradient(
            ratio=TokenRatio(denominator="behaviour"),
            trust=Mask(region=OneSide(low=0.2, high=0.27), weight="truncated", test=TokenRatio(), low=1.0, high=4.0),
            aggregate=SequenceSum(),
        ),
    )


@system("mhpo", title="Modulated Hazard-aware Policy Optimization", paper="arXiv:2603.16929", base="grpo")
def mhpo() -> Algorithm:
    """GRPO with a smooth multiplier in place of clip and min: exp(psi - zeta) A, psi = 1.5 tanh(log r / 1.5) the bounded log-ratio,
    zeta = softplus(psi)^1.5 + (softplus(-psi) / 0.8)^2 the detached hazards of having moved up and down; falling is damped
    harder than rising. No plateau, no edge, weight of a token's gradient at most e^1.5. At r = 1 the multiplier is 0.265: a
    smaller step than GRPO's for SGD, none for Adam. Mean over tokens, then over responses; no KL."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=TanhRatio(bound=1.5), trust=Hazard(), aggregate=SequenceMean()),
    )


@system("vcpo", title="Variance-Controlled Policy Optimization", paper="arXiv:2602.17616", base="reinforce")
def vcpo() -> Algorithm:
    """For stale rollouts: REINFORCE, each trajectory weighted by the product of its ratios to the sampler, cut off at 8, with two
    controls of the variance that such weights bring. The learning rate of a step is multiplied by the square root of the
    weights' effective sample size over their number; and the baseline is the one of least variance, the group's rewards
    weighted by the squared norm of each trajectory's weighted gradient (one backward pass each). Divided by the group's
    deviation; mean over tokens, then over responses; no clip, no KL."""
    return Algorithm(
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


@system("safe-rlhf-pid", title="SAFE", paper="github.com/ryyzn9/SAFE", base="ppo")
def safe_rlhf_pid() -> Algorithm:
    """PPO for RLHF on whole responses with a pessimistic critic and a controller on the KL. The value of a response is the soft
    minimum (alpha 0.3) of two heads; A = running-normalised reward minus it, standardised. Clip 0.2, entropy bonus 0.01, two
    epochs. While the smoothed KL to the initial model exceeds a threshold (0.3, moved by a PID controller on the reward's
    velocity and by the phase of training, within 0.1 to 0.6), 0.1 times the squared excess is charged, more as the entropy falls
    below 2. The released script adds that charge as a number without gradient (objective.regularise.1.mode=inert);
    here it pulls. One gradient-norm limit serves policy and critic (released: 1.0 and 0.5)."""
    return Algorithm(
        credit=PessimisticCritic(),
        objective=PolicyGradient(regularise=(Entropy(coefficient=0.01), KLControl())),
        update=GradientUpdate(epochs=2, optimiser=AdamW(lr=1e-5), reference=FrozenReference()),
    )
