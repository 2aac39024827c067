"""Methods that keep the policy's entropy up, by token, by target, or where it would be lost."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.lengthwise import LengthDeviation, LengthMean
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.window import ReplaceByTargets
from anypo.generate import AdaptiveTemperature, ShiftedTargets
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.trusts.covariance import ClipCov, KLCov
from anypo.objective.trusts.entropy import HeterogeneousClip
from anypo.systems.baselines.group_relative import dapo, grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate


@system(
    "hapo-token",
    title="Heterogeneous Adaptive Policy Optimization",
    paper="github.com/starriver030515/HAPO",
    base="dapo",
    excuses={"on-policy": "damps the advantages of confident tokens while their ratio is near 1"},
)
def hapo_token() -> Algorithm:
    """DAPO in which every token is treated by its normalised entropy h in [-1, 1]. Advantages are standardised over the tokens of
    a prompt's rollouts, not over rollouts (plain statistics where some would exceed 5). Confident tokens, four in five (the pivot
    is the 0.8 quantile), may fall further before they are clipped, uncertain ones rise further, up to twice the range of 0.2.
    Advantages of uncertain tokens are amplified once their ratio has moved, those of confident tokens damped until it has. Dual
    clip at 10. Tokens are sampled at temperatures up to 5 % higher where the policy is uncertain and lower where it is sure, by
    the entropies of the step before; the ratios are those of the untempered policy. 16 minibatches per batch. Values of the six
    released recipes (starriver030515/HAPO 7671dde). Their code divides h of confident tokens by a negative number, so that it is
    positive for them too and nothing is damped, or widened downwards (their recipe/train.md describes what is done here): --set
    objective.trust.unsigned=true. h is taken at the start of the step; released: in every micro-batch anew."""
    base = dapo()
    return base.replace(
        generate=AdaptiveTemperature(width=0.05),
        credit=base.credit.replace(centre=LengthMean(fallback=5.0), scale=LengthDeviation(fallback=5.0)),
        objective=PolicyGradient(trust=HeterogeneousClip()),
    )


@system("aepo-entropy", title="Arbitrary Entropy Policy Optimization", paper="arXiv:2510.08141", base="grpo")
def aepo_entropy() -> Algorithm:
    """GRPO that holds the policy's entropy at a chosen level without an entropy bonus. While it is at or below the level, a few
    successful rollouts drawn at temperature 1.2 replace the batch's first ones and are trained on with advantage 1; while it
    is above, half as many drawn at 0.8. Imitating one's own samples of another temperature moves the entropy towards that
    temperature's. The level (0.5 nats per token) is the user's choice. Targets are 60 of 2560 rollouts, as released
    (597358816/AEPO b353a05, whose targets all come from the first quarter of the prompts; here from all in order).
    Training on successes alone lowers the entropy by itself, at any temperature: with an eighth of the batch as targets, 1.2 did not
    make up for that in a small world, 2.0 did. So few targets, and a hotter generate.hot where the entropy still falls."""
    return grpo().replace(
        generate=ShiftedTargets(entropy=0.5, hot=1.2, cold=0.8, most=60 / 2560),
        credit=Pipeline(scale=StandardDeviation(), select=(ReplaceByTargets(),)),
    )


@system(
    "clip-cov",
    title="Clip-Cov",
    paper="arXiv:2505.22617",
    base="grpo",
    excuses={"on-policy": "takes the gradient of a few tokens away, on fresh data too"},
)
def clip_cov() -> Algorithm:
    """GRPO against the collapse of entropy. A gradient step lowers the entropy about as much as advantage and log-probability
    covary; of the tokens with (A - mean A)(log pi - mean log pi) between 1 and 5 that the clip leaves alone, a random few (0.02 %
    of all tokens, at least one) lose their gradient. The clip is open: ratios between 0 and 2. Eight minibatches per batch, mean
    over all tokens, no KL, no entropy bonus. Values of the released recipe (PRIME-RL/Entropy-Mechanism-of-RL 8850579,
    7b_clip_cov.sh: 256 prompts, 32 at a time)."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=ClipCov(low=1.0, high=1.0)),
        update=GradientUpdate(minibatches_per_epoch=8),
    )


@system("kl-cov", title="KL-Cov", paper="arXiv:2505.22617", base="grpo")
def kl_cov() -> Algorithm:
    """The same diagnosis as clip-cov with another remedy: the 0.2 % of tokens with the largest covariance of advantage and
    log-probability pay |log pi - log pi_old| times beta = 1; no clip anywhere. Mean over all tokens, no reference, no entropy
    bonus. (0.2 % is the paper's share for 7B models, 0.02 % for 32B.) Eight minibatches per batch (7b_kl_cov.sh): the penalty's
    gradient at pi_old is zero, so that it acts from the second on."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=KLCov()),
        update=GradientUpdate(minibatches_per_epoch=8),
    )
