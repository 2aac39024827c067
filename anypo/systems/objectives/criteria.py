"""Methods that optimise another criterion than the mean reward: its lower tail, a ranking, the entropy-regularised return."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.groups import LeaveOneOut
from anypo.credit.pipeline import Pipeline
from anypo.credit.risk import RiskBundles
from anypo.credit.shaping.reward_entropy import RewardEntropy
from anypo.objective.aggregates import SequenceSum
from anypo.objective.discriminative import Discriminative, ForwardKL
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.regularisers.terms import Controlled
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.multipliers import Hinge


@system(
    "riskpo",
    title="Risk-based Policy Optimization",
    paper="arXiv:2510.00911",
    base="grpo",
    excuses={
        "reward offset": "bundles prompts: an offset of one moves its bundles among the quantiles",
        "common offset": "a set whose prompts have unequally many rollouts has bundles of unequal size",
    },
)
def riskpo() -> Algorithm:
    """Optimises a lower tail of scores instead of their mean. Responses to five prompts are bundled at random; a bundle's score is
    the sum of their rewards, and its advantage weighs the lowest fifth of scores 4.5 times as steeply as the middle and the
    highest fifth not at all (slopes 3, 2/3 and 0: weights 1.5 : 1, each over its own probability), divided by the deviation of the
    scores; the quantiles are tracked across steps. Inside a bundle each response gets the share that its reward's deviation from
    its prompt's mean has of the bundle's, so that wrong answers in a good bundle are not reinforced (and those to a prompt that
    nobody solved get nothing, unless the deviations cancel). Five prompts whose bundles all score alike teach nothing. PPO's token
    clip at 0.2, mean over all tokens, four minibatches per batch: the released recipe (RTkenny/RiskPO 8dce3fa,
    run_qwen2.5_1.5b_MVaR_dapomath.sh: 512 prompts, 128 at a time, ten responses each). The paper has a sequence ratio: --set
    objective.ratio=sequence --set objective.trust.low=3e-4 --set
    objective.trust.high=4e-4 --set objective.trust.length=4096 --set objective.aggregate=sequence_mean; and gives all responses of
    a bundle its advantage: --set credit.inside=uniform."""
    return Algorithm(
        control=Uniform(prompts=20, samples=10),
        credit=RiskBundles(),
        objective=PolicyGradient(),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system("disco", title="Discriminative Constrained Optimization", paper="arXiv:2505.12366", base="grpo")
def disco() -> Algorithm:
    """With right-or-wrong rewards GRPO maximises the score of right answers minus that of wrong ones, each prompt weighted by
    sqrt(p (1 - p)), p its success rate. DisCO drops that weight and ranks: per prompt with both outcomes, the mean score of the
    right answers minus the soft maximum, tau log mean exp(s / tau), of the wrong ones; the score is the mean log-probability
    of an answer, tau 10 (with objective.score=ratio, the mean token ratio, tau is 1; tau=inf is DisCO-b). No clip: a token-mean
    estimate K of KL(old || pi) above 1e-4 is charged by the squared hinge 500 [K - 1e-4]_+^2, which pulls back and does not forbid: K
    comes to lie where it balances the ranking, in a small world at 2e-3. Four minibatches per batch. Values of the released scripts
    (Optimization-AI/DisCO bd2b078, run_disco_logL_1.5b_8k.sh)."""
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
