"""Methods that show the policy something beside hard problems: examples, hints, the beginning of a solution."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.filter import DropDegenerate, RightGuided, Screen
from anypo.generate import Always, Examples, Failing, Guided, Hints, Join, Prefixes, Regroup, Rescue
from anypo.objective.aggregates import GroupMean, SequenceMean, TokenMean
from anypo.objective.guided import GuidedRatio, GuidedTrust, Saturating, Undivided
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
