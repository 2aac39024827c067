"""Methods that choose which tokens are trained: by the predicted step, by what right and wrong answers share."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shape.conflict import ConflictTokens, EntropyFilter
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.rules.curvature import CurvatureRejection


@system("capo-curvature", title="Curvature-Aware Policy Optimization", paper="arXiv:2510.00819", base="grpo")
def capo_curvature() -> Algorithm:
    """GRPO that masks tokens before each optimiser step: a last-layer model predicts, from the present Adam moments, what a step
    on one token alone would do; the 8 % of tokens with the largest predicted change of the distribution (half the variance of
    their logit changes, about the KL) are left out of the loss, as many as the paper reports early in training. The released
    thresholds are absolute (luckeciano/stable-pg-llm 933fe01, for 7B models at a learning rate of 1.5e-5): a change of at most
    1e-4 nats and a predicted change of the objective within +-0.01, for Dr. GRPO 1e-3 and 5e-4. They do not travel: at other
    models and rates they reject nothing, or every token of every step, and then nothing is ever learned. --set
    update.rules.0.share=0 --set update.rules.0.shift=1e-4 --set update.rules.0.low=-0.01 --set update.rules.0.high=0.01 sets
    them."""
    return grpo().replace(update=GradientUpdate(rules=(CurvatureRejection(share=0.08),)))


@system(
    "gtpo-conflict", title="Group-relative Trajectory-based Policy Optimization", paper="arXiv:2508.03772", base="grpo"
)
def gtpo_conflict() -> Algorithm:
    """GRPO without clip, KL or reference, protecting what right and wrong answers share. In the runs of tokens that a prompt's right
    and wrong answers have in common from the start, or from the end, right answers count double and wrong ones not
    at all; a response is divided by its number of such tokens, as in the released code. Responses whose mean entropy exceeds
    0.7 nats are dropped, the others lose 0.1 times their mean entropy from the advantage. Score function, mean over tokens
    then over responses."""
    return Algorithm(
        credit=Pipeline(scale=StandardDeviation(), shape=(EntropyFilter(), ConflictTokens())),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceMean()),
    )
