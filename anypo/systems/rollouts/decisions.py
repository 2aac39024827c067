"""Methods whose decisions are not plain tokens: a masked vocabulary, vectors of labels."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import BatchMean
from anypo.credit.critics.gae import GAE
from anypo.credit.pipeline import Pipeline
from anypo.credit.shaping.adaptive_kl import AdaptiveRewardKL
from anypo.generate import LabelVectors, LearnedMask
from anypo.objective.aggregates import SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.terms import Entropy
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("nlpo", title="Natural Language Policy Optimization", paper="arXiv:2210.01241", base="ppo")
def nlpo() -> Algorithm:
    """PPO in which every token is drawn from the policy restricted to the nucleus (mass 0.9) of a lagging copy of
    itself, refreshed every 10 steps: a second, slow constraint that prunes nearly the whole vocabulary.
    Log-probabilities are those of the restricted distribution. Token rewards pay the log-ratio to the initial policy,
    with a coefficient that keeps it near a target; critic and GAE as in PPO, five epochs. Both sides of that log-ratio are
    renormalised over the mask, too, so that it is the divergence of what is sampled from; the release (allenai/RL4LMs) takes
    both over the whole vocabulary, and ends the epochs early where the policy has moved 1.5 times a target (off by default)."""
    return Algorithm(
        generate=LearnedMask(),
        credit=GAE(gamma=0.99, lam=0.95, coefficient=0.5, shaping=(AdaptiveRewardKL(),)),
        objective=PolicyGradient(),
        update=GradientUpdate(epochs=5, reference=FrozenReference()),
    )


@system(
    "gliclass-ppo",
    title="GLiClass with multi-label PPO",
    paper="arXiv:2508.07662",
    base="ppo",
    excuses={"reward offset": "its baseline is the batch mean, which a common offset leaves alone"},
)
def gliclass_ppo() -> Algorithm:
    """Reinforcement for a multi-label classifier: the action is a vector of independent labels, the reward one number
    for the whole vector (F1 here). Every label has its own ratio, clipped to 1 +- 0.2; the advantage, reward minus batch
    mean, is shared; sum over labels, three passes with the same actions (the released code draws new actions in every
    pass against the old probabilities), and an entropy bonus of weight 1 on the mean over labels, which is what the release's
    default of -1 comes to (for its other terms -1 means off: ``objective.regularise=[]``). Its value model, optional there, is
    not built. Needs a label policy; used from Python (see docs/credit.md)."""
    return Algorithm(
        generate=LabelVectors(),
        credit=Pipeline(centre=BatchMean()),
        objective=PolicyGradient(aggregate=SequenceSum(), regularise=(Entropy(coefficient=1.0, mean="token"),)),
        update=GradientUpdate(epochs=3),
    )
