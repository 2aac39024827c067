"""Methods with a learned baseline: a probe of the other rollout, a critic on partial answers, a pessimistic one."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.probe import CrossProbe
from anypo.credit.critics.gae import GAE
from anypo.credit.critics.pessimistic import PessimisticCritic
from anypo.credit.pipeline import Pipeline
from anypo.credit.select.window import CurrentWindow
from anypo.generate import Windowed
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.kl_control import KLControl
from anypo.objective.regularisers.terms import Entropy
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate
from anypo.update.optimisers import AdamW


@system(
    "poise",
    title="POISE",
    paper="arXiv:2605.07579",
    base="ppo",
    excuses={"common offset": "its probe predicts success rates in [0, 1]"},
)
def poise() -> Algorithm:
    """Two rollouts per prompt; the baseline of each is a small probe's reading of the *other* one's hidden states and
    entropies, so it can use a whole trajectory and still leave the gradient unbiased. The probe (principal components,
    ridge regression) is refitted every step on recent rollouts, taught the other rollout's reward. Clipped ratio, token
    mean. The release reads twelve entropies (the whole output, its reasoning and its answer apart), a chosen layer, and keeps a buffer
    for every domain; here four entropies, the last layer and one buffer, and the probe begins in the run instead of before it."""
    return Algorithm(
        control=Uniform(prompts=32, samples=2), credit=Pipeline(centre=CrossProbe()), objective=PolicyGradient()
    )


@system("t-ppo", title="Truncated PPO", paper="arXiv:2506.15050", base="ppo")
def t_ppo() -> Algorithm:
    """PPO that trains on partial answers. Every step extends each slot by one window of tokens; finished answers leave, others go
    on in the next step with the newer policy. The policy learns from this window's tokens only, by GAE in which the value after an
    unfinished window equals the last known one and no outcome is paid yet; the critic learns from finished answers only, on all
    their tokens, with the Monte Carlo return. A window is a third of generate.max_new (8k of 24k tokens in the paper). One pass
    per batch, so each token is trained once, right after it was sampled: the clip is idle. The critic starts at zero, and knows
    nothing of unfinished answers until some have finished (the paper's is pretrained). Advantages are not whitened: centring them
    would move the tokens of unfinished answers about which the critic knows nothing yet."""
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


@system("safe-rlhf-pid", title="SAFE", paper="github.com/ryyzn9/SAFE", base="ppo")
def safe_rlhf_pid() -> Algorithm:
    """PPO for RLHF on whole responses with a pessimistic critic and a controller on the KL. The value of a response is the soft
    minimum (alpha 0.3) of two heads; A = running-normalised reward minus it, standardised. Clip 0.2, entropy bonus 0.01, two
    epochs. While the smoothed KL to the initial model exceeds a threshold (0.3, moved by a PID controller on the reward's
    velocity and by the phase of training, within 0.1 to 0.6), 0.1 times the squared excess is charged, times 2 / (H + 0.1), at
    least 1/2, where H is the entropy of what was sampled: twenty times where it runs out. The released script adds that charge as
    a number without gradient (objective.regularise.1.mode=inert); here it pulls. One gradient-norm limit serves policy and critic
    (released: 1.0 and 0.5), and one learning rate both, as released; the heads are linear on normalised states that they leave
    alone (released: two layers with GELU, and their loss moves the policy, too). Phases are told from stretches of as many
    rewards, two a step, as a tenth of the run has steps (released: of 50 rewards, --set objective.regularise.1.window=50)."""
    return Algorithm(
        credit=PessimisticCritic(),
        objective=PolicyGradient(regularise=(Entropy(coefficient=0.01), KLControl(window=0.1))),
        update=GradientUpdate(epochs=2, optimiser=AdamW(lr=1e-5), reference=FrozenReference()),
    )
