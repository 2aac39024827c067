"""PPO's trust region replaced, for control: mirror descent, bounded ratios."""

from __future__ import annotations

import math

from anypo.algorithm import Algorithm
from anypo.credit.critics.gae import GAE
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.mirror import MirrorDescent
from anypo.objective.trusts.clips import Unclipped
from anypo.objective.trusts.median import MedianBound
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.direct.natural import NaturalGradient
from anypo.update.gradient import AdamW


@system("mdpo", title="Mirror Descent Policy Optimization", paper="arXiv:2005.09814", base="ppo", made_for="actions")
def mdpo() -> Algorithm:
    """PPO without a clip: the surrogate r A minus KL(pi || pi_old) / t, whose exact optimum is pi_old exp(t A) / Z. t falls
    linearly from 1 to 0 over training, so the trust region closes (the release's default is a constant coefficient, 0.1). The KL's
    gradient is zero at pi_old: several optimiser steps per batch are what makes it a trust region; ten epochs. Advantages by GAE
    with gamma 0.99; the critic's change is clipped at 0.2. The paper takes the KL in closed form; here it is estimated on the
    sampled decisions, without bias."""
    return Algorithm(
        credit=GAE(gamma=0.99, lam=0.95, clip=0.2),
        objective=PolicyGradient(trust=Unclipped(), regularise=(MirrorDescent(),)),
        update=GradientUpdate(epochs=10, max_grad_norm=0.5),
    )


@system(
    "bpo-bounded-ratio", title="Bounded Policy Optimization", paper="arXiv:2604.18578", base="ppo", made_for="actions"
)
def bpo_bounded_ratio() -> Algorithm:
    """PPO with the clip replaced by a target. "Maximise E[r A] with every ratio within 1 +- 0.3" has the solution
    r* = 1 + 0.3 sign(Q - u), u the median of Q over actions; the loss is |Q - V| |r - r*|. It has PPO's gradient up to the target and,
    beyond it, pulls back where PPO stops pulling. Q is the lambda-return, V the critic, and u a second critic, learned by a soft
    quantile loss (weight 0.5); the sign is a sigmoid of width 0.001. Nothing is whitened. Ten epochs, GAE with gamma 0.99,
    lambda 0.95, gradients up to norm 1 (each learner's by itself, released: of all together). Values of the released code
    (bounded-ratio-rl/bounded_ratio_rl 64ff1cd, src/sb3/BPO.py, cfgs/algo/bpo/mujoco.yaml). Without the second critic: --set
    objective.trust='{part: bounded_ratio, low: 0.3, high: 0.3}', the sign then that of the advantage."""
    return Algorithm(
        credit=GAE(gamma=0.99, lam=0.95, whiten=False, coefficient=1.0, clip=None),
        objective=PolicyGradient(trust=MedianBound()),
        update=GradientUpdate(epochs=10, max_grad_norm=1.0),
    )


@system("trpo", title="Trust Region Policy Optimization", paper="arXiv:1502.05477", base="ppo", made_for="actions")
def trpo() -> Algorithm:
    """The surrogate r A is maximised under a bound on the mean KL(pi_old || pi): one step per batch along the natural gradient,
    F^-1 g by ten conjugate gradient iterations (damping 0.1), as long as KL 0.01 allows and halved until the surrogate improves
    with the KL within 0.01 (openai/baselines lets it reach 0.015). F and the KL are estimated on the sampled decisions, the
    paper's empirical form; the releases integrate over actions. Advantages by GAE with gamma 0.99, lambda 0.95 (0.98 in
    openai/baselines), whitened (the paper: discounted sums of rewards). The critic passes over every batch ten times with Adam
    at 1e-3, its gradient unbounded; in environments in 32 minibatches a pass (of 64 in openai/baselines, of 128 in sb3-contrib), for
    ten steps on whole batches teach it next to nothing."""
    return Algorithm(
        credit=GAE(gamma=0.99, lam=0.95, clip=None, optimiser=AdamW(lr=1e-3)),
        objective=PolicyGradient(trust=Unclipped()),
        update=NaturalGradient(max_grad_norm=math.inf),
    )
