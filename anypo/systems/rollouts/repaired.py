"""Methods that make failed rollouts good: corrected from their first wrong step on, thought over again, or
tried again from the turn that went wrong."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.shape.amplified import Amplified
from anypo.data.records import TARGET
from anypo.generate import Corrected, Failing, Guided, Imitated, Rethinking, Retried
from anypo.objective.aggregates import SequenceMean
from anypo.objective.guided import GuidedRatio, GuidedTrust, Saturating, Undivided
from anypo.objective.mix import Mix
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.regularisers.terms import KL
from anypo.objective.supervised import Supervised
from anypo.objective.trusts.clips import Unclipped
from anypo.systems.baselines.group_relative import dapo, grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


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


@system("cog-rethinker", title="Cog-Rethinker", paper="arXiv:2510.15979", base="dapo")
def cog_rethinker() -> Algorithm:
    """DAPO that uses the prompts of which no rollout is right. Such a prompt is rolled out again, with as many rollouts, asked to
    split the problem and to solve the parts in order; where that fails, too, once more, shown a wrong answer of its own and
    asked for a better one. An example that was solved in the same way is in view, the nearest by BM25 on the question out of
    those so far (at first one that is given: --set generate.guides.file=examples.jsonl). Right rollouts of either kind are not
    reinforced: 0.1 times their likelihood, on the bare problem and word for word, is raised beside DAPO's loss, a mean over
    answers of means over tokens, so that the two ways are learned where nobody asks for them; answers may become longer by it.
    They stand for their prompt where DAPO's filter counts the prompts of a step. A failed prompt costs up to three times its
    rollouts, all of which are counted. No code is published; weight, number of examples and that such groups teach by imitation
    only are guesses from the paper's summary and its reviews."""
    base = dapo()
    assert isinstance(base.objective, PolicyGradient)
    return base.replace(
        generate=Guided(trigger=Failing(), guides=Rethinking(), fate=Imitated(), trained="plain"),
        objective=Mix(terms={"": base.objective, TARGET: Supervised(aggregate=SequenceMean())}, weights={TARGET: 0.1}),
    )


@system("r3l", title="Reflect, then retry", paper="github.com/shiweijiezero/R3L", base="grpo")
def r3l() -> Algorithm:
    """Half of a prompt's eight rollouts are independent episodes; the policy then looks back on each, says what went wrong and from
    which turn, and plays it again from there with that report in view. Both are members of one group. What they share before
    that turn is not trained, in neither; the second attempt is trained without the report. A report that led to a success, and
    the attempt with it in view, are trained as well, each by itself with advantage 1. Advantage: 1 for a success (reward 1),
    else the reward minus the group's mean, three times where that is positive, and no deviation; with rewards of 0 and 1 the
    factor never acts. Loss: minus advantage times log pi, mean over tokens, without ratio or clip, one pass over every batch.
    The release (shiweijiezero/R3L d503f6c) names a priority for drawing a batch up to three times, but none of its scripts sets
    the delay without which nothing is put back, so that its runs use a batch once: --set update.epochs=3 is what the priority
    would allow. KL (k2) to the initial model: its loss is half as large with 0.001, which is this with 0.002. There the report
    stands right before the turn that is played again, here before the conversation; its step-wise form has no KL. A model that
    writes no JSON reports, as small ones do not, plays single episodes: --set generate.role=reflector --model-as reflector=PATH
    has another write them."""
    return grpo().replace(
        generate=Retried(turns=4),
        credit=Pipeline(shape=(Amplified(),)),
        objective=PolicyGradient(
            ratio=ScoreFunction(), trust=Unclipped(), regularise=(KL(coefficient=0.002, estimator="k2"),)
        ),
        update=GradientUpdate(reference=FrozenReference()),
    )
