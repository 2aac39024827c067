"""Methods that choose which prompts a step is spent on."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.control.references import ReferencedDifficulty
from anypo.control.staged import Staged
from anypo.control.tracked import Dynamics, Thompson
from anypo.control.values import ValueBand
from anypo.credit.adversary import DifficultyAdversary
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.filter import DropDegenerate, Screen
from anypo.filter.references import SetAside
from anypo.generate.groups.restructured import Restructured
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction, TokenRatio
from anypo.objective.regularisers.terms import KL, Entropy, HardnessKL
from anypo.objective.trusts.clips import Clip, RecentredClip, Unclipped
from anypo.replay.recent import RecentGroups
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("pcl", title="Prompt Curriculum Learning", paper="arXiv:2510.01135", base="grpo")
def pcl() -> Algorithm:
    """Asks a value model which prompts the policy would solve about half of the time, and rolls out only these: four candidates are
    drawn for every prompt of the step, those nearest to 1/2 are kept. The model is a network of the policy's size with a linear head
    on the last token of the prompt, trained by squared error to the group means of the very rollouts of the step, so it costs none of
    its own, and knows prompts that nobody has answered (``control.critic=head`` shares the policy's network instead). The update is
    strictly on-policy, one per batch: reward minus group mean without the standard deviation, mean over tokens, then over
    rollouts; no ratio, no clip, no KL. Built from reviews of the paper, which publishes no code; its search for the batch size at the
    knee of generation time is not built, nor is the model's learning rate known."""
    return Algorithm(
        control=ValueBand(),
        credit=Pipeline(),
        objective=PolicyGradient(ratio=ScoreFunction(), trust=Unclipped(), aggregate=SequenceMean()),
    )


@system("vade", title="Variance-Aware Dynamic Sampling", paper="arXiv:2511.18902", base="grpo")
def vade() -> Algorithm:
    """Treats problems as arms of a bandit whose means drift: a Beta belief about the success rate of each, one rate p drawn from every
    belief a step, and GRPO on the problems of the largest p (1 - p)^2. Nothing is rolled out in vain and nothing added. Beliefs
    fade at two speeds, those just tested faster, so that the beginning of a run is not held against a better policy. How fast, and
    the form of the fading, are ours (0.5 and 0.99): the paper says "two-scale prior decay" and publishes no code. A belief is
    read only where problems are met again: a run draws from as many problems as it visits five times (``control.passes``, ours)."""
    return grpo().replace(control=Thompson())


@system("dps", title="Dynamics-Predictive Sampling", paper="arXiv:2603.10887", base="grpo")
def dps() -> Algorithm:
    """Predicts with a hidden Markov model of every problem (none, some or all of its rollouts right) which ones will be partly solved
    in the next step, and trains on these: DAPO's wish without its discarded rollouts. Problems partly solved last time come first,
    then those never tried (1/3), then the failed and the solved, which return to 1/3 as the counts are forgotten (0.7 a step, the
    MATH runs; 0.5 on Countdown and Geometry3k). Every problem is a candidate in every step, as in these runs; no exploration beyond
    that. Loss of the scripts: clip 0.2 / 0.28, dual clip 10, token mean, entropy bonus 0.001, no KL; two minibatches a batch."""
    return Algorithm(
        control=Dynamics(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28, dual=10.0), regularise=(Entropy(coefficient=0.001),)),
        update=GradientUpdate(minibatches_per_epoch=2),
    )


@system("gdro-rl", title="Prompt-GDRO", paper="arXiv:2601.19280", base="grpo")
def gdro_rl() -> Algorithm:
    """GRPO against an adversary: prompts are sorted into ten bins by how often any of their rollouts was right, and rollouts of bins
    on which the policy fails weigh more, by exponential weights over the running loss of each bin. Clip 0.2 / 0.28, k3 penalty 0.001,
    four minibatches a batch, four rollouts. A bin's loss is its failure rate here. The release (kishanpb/verl-gdro) takes the mean
    clipped surrogate, which is exactly 0 at a ratio of 1, since a group's advantages sum to 0, and of order 0.01 after that, and
    divides it once more by the bin's share of the batch; with failure rates that would give rare bins nearly all the weight. Every
    problem is met five times (``control.passes``, ours): one met once has no history. Not built: the focus map, and the paper's other
    game, over numbers of rollouts, whose released bandit learns from the same vanishing loss."""
    return Algorithm(
        control=Uniform(passes=5, samples=4),
        credit=Pipeline(scale=StandardDeviation(), group_weight=DifficultyAdversary()),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28), regularise=(KL(coefficient=0.001),)),
        update=GradientUpdate(minibatches_per_epoch=4, reference=FrozenReference()),
    )


@system("dots-rr", title="DOTS and rollout replay", paper="arXiv:2506.05316", base="grpo")
def dots_rr() -> Algorithm:
    """Two savings in GRPO. Selection: every other step a few references are rolled out, not to be trained on; attention over the words
    of problems predicts the success rate of all others from theirs, and the prompts nearest to 1/2 are taken. Replay: half of
    a batch is stored groups, drawn evenly from the newest of each problem that are neither all right nor all wrong; their ratio
    divides by the policy that sampled them, and the clip, 0.2 around the policy before this step, leaves the full correction. Eight
    minibatches, mean over tokens, no KL. The published predictor reads embeddings of another language model and is
    trained beforehand on rollouts of several policies; this one reads hashed words and learns as the run goes. References cost
    half as many rollouts as prompts (8 for two steps of 8), as in the scripts (256 for two of 256), where replay begins
    after two steps of 512; temperature 0.6 there."""
    return Algorithm(
        control=ReferencedDifficulty(),
        filter=Screen(rounds=2, survival=(SetAside(),)),
        replay=RecentGroups(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(ratio=TokenRatio(denominator="behaviour"), trust=RecentredClip(relative=True)),
        update=GradientUpdate(minibatches_per_epoch=8),
    )


@system("clpo", title="Curriculum Learning meets Policy Optimization", paper="arXiv:2509.25004", base="grpo")
def clpo() -> Algorithm:
    """A curriculum that the policy writes: four rollouts tell hard prompts (at most one right), medium (two) and easy; it then puts
    each hard question more simply and each medium one in other words, keeping the answer, which it is shown, and rewritings are rolled
    out as groups of their own. Trained on: all groups, old and new, that are neither all right nor all wrong. GRPO's advantages,
    mean over tokens, eight minibatches, and a KL of 0.001 that counts half where a question is hard (0.0005 a token: no small run
    will show it). Half of a step's rollouts are for rewritings. They need a policy that can follow an instruction: the text of one
    that cannot is no question, its groups are all wrong, and what is left is GRPO with four rollouts. The instructions are in
    words of our own; the release writes chat roles into the text, where here a rewriting is a message like the original."""
    return Algorithm(
        control=Uniform(samples=8),
        generate=Restructured(),
        filter=Screen(survival=(DropDegenerate(),)),
        credit=Pipeline(scale=StandardDeviation()),
        objective=PolicyGradient(regularise=(HardnessKL(),)),
        update=GradientUpdate(minibatches_per_epoch=8, reference=FrozenReference()),
    )


@system("craft-gui", title="CRAFT-GUI", paper="arXiv:2508.11360", base="grpo")
def craft_gui() -> Algorithm:
    """A curriculum for agents that operate screens: problems are sorted into three stages by how many operations their task needs (at
    most 3, at most 8, more, and questions about the screen), and GRPO goes through them, the easiest first, with a tenth of
    the prompts of a later stage from earlier ones. Every problem is one step, one action; its reward is 0.1 for the form and 0.9 for
    the action, right type times how right the argument is: the task ``screens``, a stand-in for screenshots, whose questions are
    graded by the words they share with the answer in the place of a judge. KL penalty to the initial model, as in GRPO's paper. There
    is no code: bounds, weights and the share of review are ours. On other tasks ``control.key`` names what makes them hard."""
    return grpo().replace(
        control=Staged(),
        objective=PolicyGradient(aggregate=SequenceMean(), regularise=(KL(coefficient=0.04),)),
        update=GradientUpdate(reference=FrozenReference()),
    )
