"""Methods that make failed rollouts good: corrected from their first wrong step on."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.generate import Corrected
from anypo.objective.aggregates import SequenceMean
from anypo.objective.guided import GuidedRatio, GuidedTrust, Saturating, Undivided
from anypo.objective.policy_gradient import PolicyGradient
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


@system(
    "scope-rlvr",
    title="Step-wise Correction for On-Policy Exploration",
    paper="arXiv:2602.24110",
    base="grpo",
    excuses={"checks": "needs a judge of steps and a stronger model, which no default can name"},
    needs={"models": [{"role": "prm", "model": "self"}, {"role": "teacher", "model": "self"}]},
)
def scope() -> Algorithm:
    """GRPO that keeps wrong rollouts as far as they are right. Where at most half of a group is right, a process reward model reads
    every beginning of its wrong answers; the first step that it finds less than even likely is the first wrong one. The answer with
    the largest share of right steps, at least 0.3, is finished from there by a stronger model, and takes its own place in the group
    if it is right then. The group's mean and deviation are taken over what it holds afterwards. The policy's own tokens have the
    clipped ratio, the teacher's p / (p + 0.1), p the policy's probability of them, with 1 as the denominator and no clip. The
    verdicts say where to cut and are paid to nobody. Both models have to be named: --model-as prm=PATH --model-as teacher=PATH (a
    model, a server or a program); where there is one way to write a solution, worked ones do in their place: --set
    generate.faults=comparison --set generate.teacher=by_solution. Steps are lines (--set generate.delimiter=...): an answer of one
    step has nothing to keep. No code is published, and of the paper only the summary was at hand: the rule for which groups, the
    thresholds, one correction a group and the form of the teacher's term (that of LUFFY) are a reconstruction."""
    return grpo().replace(
        generate=Corrected(),
        objective=PolicyGradient(
            ratio=GuidedRatio(guided=Undivided()),
            trust=GuidedTrust(guided=Saturating(gamma=0.1)),
            aggregate=SequenceMean(),
        ),
    )
