"""Methods that learn from pairs of responses to one prompt."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.pipeline import Pipeline
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.objective.preference.contrastive import Contrastive
from anypo.objective.preference.pairwise import Pairwise
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("copg", title="Contrastive Policy Gradient", paper="arXiv:2406.19185", base="rloo")
def copg() -> Algorithm:
    """Pairs of responses to one prompt, from any distribution, each the other's baseline: minimise (R - R' - beta (s - s'))^2 with
    s = log pi(y) - log pi_ref(y) summed over tokens. Its only optimum is the reference tilted by exp(R / beta), without
    importance weights, clipping or critic. Two responses per prompt; beta 0.05 (the paper's range is 0.03 to 0.1)."""
    return Algorithm(
        control=Uniform(prompts=32, samples=2),
        objective=Contrastive(beta=0.05),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system(
    "p3o-pairwise",
    title="Pairwise Proximal Policy Optimization",
    paper="arXiv:2310.00212",
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
