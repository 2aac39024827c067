"""Methods that show the policy something beside hard problems: examples, hints, the beginning of a solution."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.contexts import ContextMean
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.filter import DropDegenerate, RightGuided, Screen
from anypo.generate import (
    Always,
    Beside,
    Contexts,
    Examples,
    Failing,
    Guided,
    Hard,
    Hints,
    Join,
    Prefixes,
    Regroup,
    Rescue,
    Shortest,
    Written,
)
from anypo.objective.aggregates import GroupMean, SequenceMean, TokenMean
from anypo.objective.guided import GuidedRatio, GuidedTrust, PlainLikelihood, Saturating, Undivided
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import TokenRatio
from anypo.objective.regularisers.terms import KL
from anypo.objective.trusts.clips import Clip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("icpo", title="In-Context Steered Policy Optimization", paper="arXiv:2510.26519", base="grpo")
def icpo() -> Algorithm:
    """GRPO in which one of a prompt's eight rollouts is made by the policy itself with a solved example of another problem in view,
    and then trained on the bare problem: an expert that costs no second model. Its tokens are weighed by p / (p + 0.1), p the
    policy's own probability of them on the bare problem, without a clip and with 1 as the denominator; the others by the clipped
    ratio (dual clip 3). All share the group's mean and deviation, and one mean over tokens; KL 0.001 to the initial policy. Guided
    rollouts that are wrong are dropped before the statistics, as the paper says (reject sampling); the release (Celine-hxy/ICPO
    287ac48) has no such gate: --set filter.survival=[]. The paper's second form pays right ones up to twice, falling over the run;
    the release's step counter is never written, so that there it stays at twice: --set credit.shaping='[{part: guided_bonus}]'.
    Examples are other training problems of the task, or those of a file (--set generate.guides.file=examples.jsonl); the release
    draws from 7,500 solved problems of MATH."""
    return grpo().replace(
        generate=Guided(trigger=Always(), guides=Examples(), fate=Join(guided=1), trained="plain"),
        filter=Screen(survival=(RightGuided(),)),
        objective=PolicyGradient(
            ratio=GuidedRatio(guided=Undivided()),
            trust=GuidedTrust(guided=Saturating(gamma=0.1), others=Clip(dual=3.0)),
            aggregate=TokenMean(),
            regularise=(KL(coefficient=0.001),),
        ),
        update=GradientUpdate(minibatches_per_epoch=4, reference=FrozenReference()),
    )


@system("guide-grpo", title="Guide-GRPO", paper="arXiv:2506.13923", base="grpo")
def guide_grpo() -> Algorithm:
    """GRPO that rolls a prompt out again with a hint in view where all its rollouts failed. The hinted rollouts take the failed ones'
    place as a group with its own mean and deviation, and are trained on the problem alone: the ratio divides the policy without the
    hint by the policy that saw it, token by token. It goes through r / (r + gamma) instead of a clip, gamma the 0.9 quantile of an
    answer's ratios, so that a guided token moves at most a quarter of what another does. Groups that are all right or all wrong are
    replaced by generating again (at most ten times), hinted ones included. Two minibatches per batch, mean over each answer, no KL:
    as in the released script (vaskar-open-source-research/guide_rl 2f27715), where an answer is a micro-batch. There the quantile
    counts the padding behind it, too; here it does not. Its setting off_policy_clip_ratio is read by no line, and with fewer failed
    prompts than workers it shows no hint. Hints are the most telling ones of the problem (--set generate.guides.file=hints.jsonl:
    of a file)."""
    return grpo().replace(
        generate=Guided(trigger=Failing(), guides=Hints(take="last"), fate=Regroup(), trained="plain"),
        filter=Screen(survival=(DropDegenerate(),), rounds=10),
        objective=PolicyGradient(
            ratio=GuidedRatio(guided=TokenRatio(denominator="behaviour")),
            trust=GuidedTrust(guided=Saturating(quantile=0.9)),
            aggregate=SequenceMean(),
        ),
        update=GradientUpdate(minibatches_per_epoch=2),
    )


@system("scaf-grpo", title="Scaf-GRPO", paper="arXiv:2510.19807", base="grpo")
def scaf_grpo() -> Algorithm:
    """GRPO that rescues a group in which all have failed with one right answer: the prompt is rolled out once with each of its hints,
    and the right answer with the least telling one takes a failed member's place. It is trained on the prompt with the hint, where it
    was sampled, and shares mean and deviation with its siblings without one: with eight of them the one success has the advantage 2.47
    and each failure -0.35. Where no hint helps the group stays as it is. The first twentieth of a run is exempt, so that what only
    needs practice gets no hint (ours: the launch script exempts 50 steps, --set generate.trigger.after=50). --set
    generate.trained=plain trains the rescue on the problem alone, its ratio starting at 1 (the release's strip mode; its third
    mode, both at once, is not built). Dual clip 3, mean over tokens, four minibatches (dvlab-research/Scaf-GRPO 1085db5). There a
    problem has hints of three kinds in four cumulative pieces; of the twelve levels the paper counts the release plays eight, for
    the planning hints are commented out. A file has them as a list of lists: --set generate.guides.file=hints.jsonl."""
    return grpo().replace(
        generate=Guided(trigger=Failing(after=0.05), guides=Hints(), fate=Rescue()),
        objective=PolicyGradient(trust=Clip(dual=3.0), aggregate=TokenMean()),
        update=GradientUpdate(minibatches_per_epoch=4),
    )


@system("ghpo", title="Guided Hybrid Policy Optimization", paper="arXiv:2507.10628", base="grpo")
def ghpo() -> Algorithm:
    """GRPO that shows a prompt whose rollouts all fail the first quarter of its worked solution and rolls it out again, then the first
    half, then three quarters, until one succeeds. The last group takes the place of the first and is trained on the prompt it was made
    with, solution text included, so that every ratio starts at 1; a prompt that fails at three quarters teaches nothing. The more the
    policy needs, the nearer this is to imitation, and as it learns fewer prompts are shown anything. Shares are of characters.
    Deviation plus 1e-4, tokens count alike within a prompt and prompts alike, one update per batch (hkgc-1/GHPO af0a7dd, with one
    prompt per device). In the release a prompt that a quarter has solved is trained on the bare question as soon as another needs
    half, without a ratio; its hint_ratio is read by no line, and the paper's cold start (half of every solution in the first steps)
    is not in it; none of this is here. Right is what the task's outcome says, whatever else it pays."""
    return grpo().replace(
        generate=Guided(trigger=Failing(), guides=Prefixes(), fate=Regroup()),
        credit=Pipeline(scale=StandardDeviation(eps=1e-4)),
        objective=PolicyGradient(aggregate=GroupMean()),
    )


@system("sage-hint", title="SAGE, self-hint aligned GRPO", paper="arXiv:2602.03143", base="grpo")
def sage_hint() -> Algorithm:
    """GRPO whose hints the policy writes itself: shown question and solution of a prompt that has no success, it is asked once for
    three hints, from the key idea to a detailed one that does not say the answer. The whole group is rolled out again with the
    first, then the second, then the third, until one succeeds, and takes the place of the failed one; it is trained on the prompt
    with the hint, where it was sampled. Hints are not trained, and a prompt without any keeps its own rollouts. Clip 0.2 below and
    0.28 above, mean over tokens, two minibatches (BaohaoLiao/SAGE 8722c1a, method sage of run_sage.sh). There a reply that cannot
    be read is asked for again at temperature 0, which repeats it; here at 1 (--set generate.guides.temperature=0). Any reward above
    0 ends the hints there, so that one for the form alone keeps them away; here it is the task's outcome. A model that writes no
    hints, as small ones do not, is given those of the task (ours; --set generate.guides.otherwise=none leaves such prompts alone;
    generate/written_share says how many are its own). The variant sage-light, whose levels follow a prompt's last visit, is not
    built."""
    return grpo().replace(
        generate=Guided(trigger=Failing(), guides=Written(), fate=Regroup()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28), aggregate=TokenMean()),
        update=GradientUpdate(minibatches_per_epoch=2),
    )


@system("pope", title="Privileged On-Policy Exploration", paper="arXiv:2601.18779", base="grpo")
def pope() -> Algorithm:
    """GRPO in which every hard prompt is asked twice: as it is, and with the beginning of a solution in view, from which the policy
    is to go on. Each is a group with its own statistics, sampled and trained on the same prompt; the solution's text is never a
    target. What is learned behind the beginning carries over, until the plain prompt's groups, which fail at first and teach
    nothing, have successes of their own. Hard is a prompt of whose first rollouts none is right. Its beginning is the shortest of
    four pieces of equal length behind which one of four rollouts succeeds, found when the prompt is first met (the paper prepares
    it with the initial policy) and never with the whole answer. No code is published: this rule and the even mix are a
    reconstruction from what the authors wrote, and the numbers are ours. A cheaper form in another group's release
    (tally0818/NudgeRL cf247f7) asks each prompt once, half of them behind the first 15 % of a solution: --set generate.fate=regroup
    --set generate.trigger=by_lot --set generate.guides='{part: prefixes, shares: [0.15]}'."""
    return grpo().replace(generate=Guided(trigger=Hard(), guides=Shortest(), fate=Beside()))


@system("nudgerl", title="NudgeRL", paper="arXiv:2605.15726", base="grpo")
def nudgerl() -> Algorithm:
    """GRPO whose rollouts try different approaches: a prompt's eight are divided over its first two strategies, which are shown as
    hints, and each loses its strategy with probability one half. The advantage has two levels, a rollout against its strategy and
    1.1 times the strategy against the group (1 would be GRPO's), rollouts without one against the group; divided by the group's
    population deviation. Each is trained with the clipped ratio on the prompt it was sampled from; beside it, 0.1 times the
    advantage times the mean log-probability of the same answer on the plain prompt is raised, without ratio or clip, for all of
    them. It is this that carries over to prompts without a strategy. top-p 0.95, mean over each answer, two minibatches
    (tally0818/NudgeRL cf247f7, its train_config.yaml). The release trains adapters of rank 32 at 2e-5 (--lora 32 --set
    update.optimiser.lr=2e-5) on 250 problems with five strategies each, of which only the first two are ever shown. Here hints of
    the problem stand in where no file of strategies is given (--set generate.guides.file=strategies.jsonl); a problem with fewer
    than two has plain rollouts only."""
    return grpo().replace(
        generate=Guided(trigger=Always(), guides=Hints(template=NUDGE), fate=Contexts(), top_p=0.95),
        credit=Pipeline(centre=ContextMean(), scale=StandardDeviation(ddof=0, eps=1e-5, of="centred")),
        objective=PolicyGradient(aggregate=SequenceMean(), regularise=(PlainLikelihood(coefficient=0.1),)),
        update=GradientUpdate(minibatches_per_epoch=2),
    )


NUDGE = (
    "{prompt}\n\nContext (exploration condition):\n- Use this hint/approach: {guide}\n\nImportant:\n"
    "- Follow this approach as your primary strategy."
)
"""How a strategy is put to the policy."""
