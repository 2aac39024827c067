"""Methods that weigh a token by another ratio than its own: the smallest of its prefix, a bounded one."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import MinimumPrefix, TanhRatio
from anypo.objective.trusts.clips import SoftClip
from anypo.objective.trusts.hazard import Hazard
from anypo.replay import Delayed
from anypo.systems.registry import system
from anypo.update import GradientUpdate


@system("minpro", title="MinPRO", paper="arXiv:2601.22718", base="cispo")
def minpro() -> Algorithm:
    """CISPO with the importance weight of a token's whole prefix instead of its own ratio alone. The exact weight, the product of
    all ratios up to the token, has exponential variance; MinPRO multiplies the token's ratio by the smallest ratio before it
    (1 for the first token), both to the policy that sampled. The weight is cut off at 1.28 (a guess: not published), has no floor, and
    is detached; mean over all tokens. Rollouts are two steps old, the least of the paper's off-policy study, and a batch is cut into
    four minibatches (not published)."""
    return Algorithm(
        replay=Delayed(lag=2),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=MinimumPrefix(denominator="behaviour"), trust=SoftClip(low=1.0, high=0.28)),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system(
    "mhpo",
    title="Modulated Hazard-aware Policy Optimization",
    paper="arXiv:2603.16929",
    base="grpo",
    excuses={"on-policy": "its hazards do not vanish at ratio 1: every gradient is multiplied by 0.265"},
)
def mhpo() -> Algorithm:
    """GRPO with a smooth multiplier in place of clip and min: exp(psi - zeta) A, psi = 1.5 tanh(log r / 1.5) the bounded log-ratio,
    zeta = softplus(psi)^1.5 + (softplus(-psi) / 0.8)^2 the detached hazards of having moved up and down; falling is damped
    harder than rising. No plateau, no edge, weight of a token's gradient at most e^1.5. At r = 1 the multiplier is 0.265: a
    smaller step than GRPO's for SGD, none for Adam, so that a batch is cut into four minibatches (the paper's number is not known
    here). Mean over tokens, then over responses; no KL."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=TanhRatio(bound=1.5), trust=Hazard(), aggregate=SequenceMean()),
        update=GradientUpdate(minibatches_per_epoch=4),
    )
