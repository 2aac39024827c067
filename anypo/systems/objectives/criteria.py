"""Methods that optimise another criterion than the mean reward: its lower tail, a ranking, the entropy-regularised return."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.groups import LeaveOneOut
from anypo.credit.pipeline import Pipeline
from anypo.credit.risk import RiskBundles
from anypo.credit.shaping.reward_entropy import RewardEntropy
from anypo.objective.aggregates import SequenceMean, SequenceSum
from anypo.objective.discriminative import Discriminative, ForwardKL
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction, SequenceRatio
from anypo.objective.regularisers.terms import Controlled
from anypo.objective.trusts.clips import Clip, Unclipped
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.multipliers import Hinge


@system(
    "riskpo",
    title="Risk-based Policy Optimization",
    paper="arXiv:2510.00911",
    base="gspo",
    excuses={
        "reward offset": "bundles prompts: an offset of one moves its bundles among the quantiles",
        "common offset": "a set whose prompts have unequally many rollouts has bundles of unequal size",
    },
)
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
    "policy-cliff",
    title="Policy Cliff: the entropy-regularised map",
    paper="arXiv:2507.20150",
    base="rloo",
)
def policy_cliff() -> Algorithm:
    """Where several answers are equally good, the reward-maximising policy jumps under arbitrarily small changes of the reward; with
    entropy in the return it cannot: the optimum softmax(Q / beta) moves by at most 1 / (beta (1 - gamma)) times the change.
    REINFORCE with a leave-one-out baseline on R - beta log pi(y), the exact gradient of E[R] + beta H (beta 0.01, the choice of
    this project). `anypo.scoring.stability` measures the cliffs of a reward: ties, gaps, and the policy's response to
    perturbations."""
    return Algorithm(
        credit=Pipeline(shaping=(RewardEntropy(coefficient=0.01),), centre=LeaveOneOut()),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceSum()),
    )
