"""Learning from preferences without a reward model."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.generate.nothing import Nothing
from anypo.objective.preference.pairs import PairLoss
from anypo.replay.solutions import Pairs
from anypo.systems.registry import system
from anypo.update.gradient import GradientUpdate
from anypo.update.optimisers import AdamW
from anypo.update.references import FrozenReference


@system("dpo", title="Direct Preference Optimization", paper="arXiv:2305.18290", base="sft")
def dpo() -> Algorithm:
    """No rollouts and no rewards: pairs of a chosen and a rejected answer (a file with the columns prompt, chosen, rejected), and a
    logistic loss on beta times the difference of their log-ratios to the initial policy. Its optimum is that of the reward
    with a KL penalty, pi_ref exp(r / beta) / Z, for the reward under which the preferences are Bradley-Terry's.
    beta 0.1, batches of 64, learning rate 1e-6 and gradient norm 10 are the authors'; they use RMSprop and warm up over 150 steps
    (--set update.schedule.warmup=150), which a short run would not outlive. Their initial policy was fine-tuned on the chosen answers
    before: --sft-steps N."""
    return Algorithm(
        generate=Nothing(),
        replay=Pairs(),
        objective=PairLoss(),
        update=GradientUpdate(optimiser=AdamW(lr=1e-6), max_grad_norm=10.0, reference=FrozenReference()),
    )
