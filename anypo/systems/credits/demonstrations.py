"""Methods that make rewards out of given text: repaired failures, worked solutions, plain text."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import Uncentred
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.rollouts import Counted
from anypo.generate import Interventions, NextSequence, OneToken
from anypo.objective.aggregates import GroupMean, SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.stages import Stages
from anypo.objective.supervised import Blend, Summed, Supervised
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.registry import system


@system("int", title="Intervention Training", paper="arXiv:2601.14209", base="sft")
def intervention_training() -> Algorithm:
    """First imitation of one's own repaired failures, then reinforcement. The policy reads its failed answer beside the
    worked solution and names the first wrong step and what should stand in its place; the answer up to there and the
    replacement are kept if some of 32 continuations succeeds, and the likelihood of both is raised, and of nothing after
    them. After 30 % of the run GRPO takes over (the paper has two runs: four epochs of supervised training on such edits,
    then reinforcement). ``generate.review=comparison`` finds the step by comparing texts, for policies that cannot read."""
    return Algorithm(
        generate=Interventions(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=Blend(
            rollouts=PolicyGradient(aggregate=SequenceMean()), experts=Supervised(), mixing=Stages(share=0.3)
        ),
    )


@system(
    "otr",
    title="One-Token Rollout",
    paper="arXiv:2509.26313",
    base="sft",
    excuses={"common offset": "its rewards are fixed by the method; no baseline"},
)
def otr() -> Algorithm:
    """Supervised data by policy gradient: at every position of a worked solution 256 tokens are drawn from the policy at
    temperature 1.3; the solution's token earns 1, any other -0.1, and the loss is reward times log-probability, averaged
    over positions and draws. A token the policy never draws is not forced on it, unlike in supervised training. At
    temperature 1 its expectation is probability-weighted supervised training times 1.1."""
    return Algorithm(
        generate=OneToken(),
        credit=Pipeline(centre=Uncentred(), select=(Counted(),)),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=GroupMean()),
    )


@system("refine", title="REFINE", paper="arXiv:2602.16704", base="grpo")
def refine() -> Algorithm:
    """Next-sequence prediction on plain text beside next-token prediction: from one position in each eighth of the text,
    drawn by entropy, five tokens are sampled; the reward is the cosine between their hidden states and those of the true
    continuation. The eight rollouts of a text are a GRPO group, weighted 1 to 5 against the likelihood of the text. A text
    of no more than five tokens has no place to predict from: there it is imitation alone, which the run says."""
    return Algorithm(
        generate=NextSequence(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=Blend(
            rollouts=PolicyGradient(aggregate=SequenceMean()), experts=Supervised(), mixing=Summed(coefficient=5.0)
        ),
    )
