"""Diagnostics of preference learning."""

from __future__ import annotations

from anypo.measures.rankings import RankingAccuracy
from anypo.systems.registry import system


@system("ranking-accuracy", kind="measure", title="Ranking accuracy and alignment gap", paper="arXiv:2405.19534")
def ranking_accuracy() -> RankingAccuracy:
    """Of pairs of a better and a worse answer to one prompt, the share with log pi(better) >= log pi(worse), without any reference
    (reward accuracy, which preference learning reports, compares log-ratios to the reference). The idealised accuracy is that of
    the optimum, whose margin is the reference's plus logit(a) / beta for a share a of raters who agree; the alignment gap is what is
    missing to it. A pair that the reference misranks by c flips only when its DPO loss falls below -log sigmoid(beta c), which is
    why training rarely flips hard pairs although its loss falls.

    Pairs are the best and the worst rollout of each stored group; ``--set policy=final`` scores those of the first step with the
    trained weights, beside the weights that sampled them."""
    return RankingAccuracy()
