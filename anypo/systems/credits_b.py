"""Methods whose learning signal comes from elsewhere than a verifier of the prompt: the rollouts' agreement, auxiliary
questions, demonstrations, learned values; and budgets that follow what was learned."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import HardFocus, ValueBudget
from anypo.credit.centres.generalist import LearnValue
from anypo.credit.centres.groups import BatchMean, Uncentred
from anypo.credit.critics.gae import GAE
from anypo.credit.granularity.branches import CriticValues
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.rollouts import Counted
from anypo.credit.shape.tokens import EntropyResponse, Uncertainty
from anypo.credit.shaping.adaptive_kl import AdaptiveRewardKL
from anypo.credit.shaping.outcomes import ModeCost
from anypo.filter import IntervalConsensus, MajorityVote, Screen
from anypo.generate import (
    ConfidenceForks,
    EntropyForks,
    Interventions,
    LabelVectors,
    LearnedMask,
    Modes,
    NextSequence,
    OneToken,
    ReRolled,
    WithAuxiliary,
)
from anypo.generate.groups.auxiliary import ExecutionTraces, SelfJudging
from anypo.objective.aggregates import GroupMean, SequenceMean, SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import ScoreFunction
from anypo.objective.stages import Stages
from anypo.objective.step_regression import StepRegression
from anypo.objective.supervised import Blend, Summed, Supervised
from anypo.objective.trusts.clips import Unclipped
from anypo.objective.trusts.tail_clip import TailClip
from anypo.systems.baselines import grpo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, PeriodicReference


@system("ttrl", title="Test-Time Reinforcement Learning", paper="arXiv:2504.16084", family="test-time", base="grpo")
def ttrl() -> Algorithm:
    """GRPO without labels: the answer most rollouts of a prompt agree on is taken for right, and reward is agreement
    with it. Where the task has labels, the accuracy of these pseudo-labels is reported and never trained on."""
    return grpo().replace(filter=Screen(signals=(MajorityVote(),)))


@system("ettrl", title="ETTRL", paper="arXiv:2508.11356", family="test-time", base="ttrl")
def ettrl() -> Algorithm:
    """Test-time training with two entropy devices. Rollouts are trees: two whole answers, each continued twice from its
    three most uncertain tokens, so 14 answers for about 57 % of the tokens of 14 separate ones; all of them vote. And an
    answer's advantage is multiplied by 1 + (mean entropy of the group - its own) / mean entropy, so that confident
    answers count more; an answer above twice the mean flips its sign in this published form (``credit.shape.0.floor=0``
    repairs it)."""
    return ttrl().replace(
        generate=EntropyForks(trees=2, forks=3, branches=2),
        credit=Pipeline(scale=StandardDeviation(), shape=(EntropyResponse(),)),
    )


@system("echo-ttrl", title="ECHO", paper="", family="test-time", base="ttrl")
def echo_ttrl() -> Algorithm:
    """Test-time training with trees gated by entropy and confidence: a rollout forks at its first uncertain, doubtful
    and rising token into up to four branches, and is pruned where it loses confidence; finished leaves vote. Advantages
    can be shaped towards uncertain, decisive tokens (coefficients 0 in the released defaults), and the clip range of a
    response shrinks from 0.2 towards 0.05 as the probability of its last 16 tokens grows."""
    return ttrl().replace(
        generate=ConfidenceForks(),
        credit=Pipeline(scale=StandardDeviation(), shape=(Uncertainty(),)),
        objective=PolicyGradient(trust=TailClip(), aggregate=SequenceMean()),
    )


@system(
    "urpa",
    title="Uncertainty-quantified Rollout Policy Adaptation",
    paper="arXiv:2508.06317",
    family="multimodal",
    base="grpo",
)
def urpa() -> Algorithm:
    """Adapts interval answers without labels: the mean interval of the rollouts is the pseudo-label, the reward half for
    a readable answer and half for the overlap with it times a confidence that falls with the spread of the rollouts. The
    confidence is the same for a whole group, so GRPO's standard deviation cancels it: ``filter.signals.0.weigh=false`` with
    ``credit.group_weight=component`` applies it after scaling instead."""
    return grpo().replace(filter=Screen(signals=(IntervalConsensus(),)))


@system("v-zero", title="V0, a generalist value model", paper="arXiv:2602.03584", base="grpo")
def v_zero() -> Algorithm:
    """Plans the step's rollouts with a value model that knows the policy only through what it did lately on other
    prompts: no weight changes when the policy does. Rollouts go where failures and a success are expected together.
    Advantages are GRPO's over groups of unequal size; the model learns beside the policy (ranking and cross-entropy). It
    is also a baseline of its own, fit for single rollouts: ``credit.centre=generalist_value`` with ``credit.scale=none``."""
    return grpo().replace(control=ValueBudget(), credit=Pipeline(shaping=(LearnValue(),), scale=StandardDeviation()))


@system("drive", title="DRIVE", paper="arXiv:2511.06307", base="grpo")
def drive() -> Algorithm:
    """A curriculum for GRPO: first every problem with few rollouts, then phases on the problems with the lowest pass
    rates with 64 rollouts each, a smaller pool in every phase. Solved problems leave for good; a problem never solved
    stays, since with p near 1/64 a large group is what makes it informative."""
    return grpo().replace(control=HardFocus())


@system("a2fm-apo", title="Adaptive Policy Optimization of A2FM", paper="arXiv:2510.12838", family="agent", base="grpo")
def a2fm_apo() -> Algorithm:
    """One policy, three answer modes. Three rollouts are forced into each mode and three choose freely, in one group, so
    modes compete directly; on prompts that the cheap mode solves with rate p >= 0.7 the other modes' reward is
    multiplied by 1 - p^2. Forced tags are context, chosen ones are trained. Counts, threshold and exponent are not
    published; these are ours."""
    return grpo().replace(
        generate=Modes(forced=3, free=3), credit=Pipeline(shaping=(ModeCost(),), scale=StandardDeviation())
    )


@system("coderl-plus", title="CodeRL+", paper="arXiv:2510.18471", base="grpo")
def coderl_plus() -> Algorithm:
    """Beside the code task, a second one made of the policy's own failed programs: they are run, and the policy is asked
    what they print and what their variables hold (0.1 for the format, 0.9 for the share of right values). Both kinds are
    prompts with groups of their own in one GRPO loss. ``generate.share=0`` is GRPO."""
    return grpo().replace(generate=WithAuxiliary(auxiliary=ExecutionTraces()))


@system("spark", title="SPARK", paper="arXiv:2509.22624", base="grpo")
def spark() -> Algorithm:
    """The policy is its own reward model: from every step's rollouts and their verdicts come questions (is this answer
    correct? which of two is better? improve this one) that are trained by the same GRPO loss in groups of their own. No
    further data, no second network. ``generate.share=0`` is GRPO."""
    return grpo().replace(generate=WithAuxiliary(auxiliary=SelfJudging()))


@system("int", title="Intervention Training", paper="arXiv:2601.14209", base="sft")
def intervention_training() -> Algorithm:
    """First imitation of one's own repaired failures, then reinforcement. A failed answer is kept up to its first wrong
    step, that step is replaced, and the edit is kept if some continuation from there succeeds; the likelihood of prefix
    and replacement is raised, and of nothing after them. After 30 % of the run GRPO takes over. The wrong step is found
    by comparison with the worked solution, where the paper lets the model review itself."""
    return Algorithm(
        generate=Interventions(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=Blend(
            rollouts=PolicyGradient(aggregate=SequenceMean()), experts=Supervised(), mixing=Stages(share=0.3)
        ),
    )


@system("otr", title="One-Token Rollout", paper="arXiv:2509.26313", base="sft")
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
    continuation. The eight rollouts of a text are a GRPO group, weighted 1 to 5 against the likelihood of the text."""
    return Algorithm(
        generate=NextSequence(),
        credit=Pipeline(scale=StandardDeviation()),
        objective=Blend(
            rollouts=PolicyGradient(aggregate=SequenceMean()), experts=Supervised(), mixing=Summed(coefficient=5.0)
        ),
    )


@system("dapo-direct", title="Direct Advantage Policy Optimization", paper="arXiv:2412.18279", base="dpo")
def dapo_direct() -> Algorithm:
    """Step-level regression instead of a clipped ratio. States between reasoning steps are valued by fresh completions,
    a critic is fitted to these values, and a step's advantage is the critic's difference over it (the verified reward at
    the end). The loss is half the squared gap between the step's log-ratio to the reference and A / beta: |A| sets how
    far it moves, then it stops. The reference becomes the policy at every step; four passes over each batch. (Not the
    clip-higher method of the same name.)"""
    return Algorithm(
        generate=ReRolled(delimiter="\n", continuations=8),
        credit=Pipeline(granularity=CriticValues()),
        objective=StepRegression(),
        update=GradientUpdate(epochs=4, reference=PeriodicReference(every=1)),
    )


@system("nlpo", title="Natural Language Policy Optimization", paper="arXiv:2210.01241", base="ppo")
def nlpo() -> Algorithm:
    """PPO in which every token is drawn from the policy restricted to the nucleus (mass 0.9) of a lagging copy of
    itself, refreshed every 10 steps: a second, slow constraint that prunes nearly the whole vocabulary.
    Log-probabilities are those of the restricted distribution. Token rewards pay the log-ratio to the initial policy,
    with a coefficient that keeps it near a target; critic and GAE as in PPO, five epochs."""
    return Algorithm(
        generate=LearnedMask(),
        credit=GAE(gamma=0.99, lam=0.95, coefficient=0.5, shaping=(AdaptiveRewardKL(),)),
        objective=PolicyGradient(),
        update=GradientUpdate(epochs=5, reference=FrozenReference()),
    )


@system("gliclass-ppo", title="GLiClass with multi-label PPO", paper="arXiv:2508.07662", family="other", base="ppo")
def gliclass_ppo() -> Algorithm:
    """Reinforcement for a multi-label classifier: the action is a vector of independent labels, the reward one number
    for the whole vector (F1 here). Every label has its own ratio, clipped to 1 +- 0.2; the advantage, reward minus batch
    mean, is shared; sum over labels, three passes with the same actions (the released code draws new actions in every
    pass against the old probabilities). Needs a label policy; used from Python (see docs/credit.md)."""
    return Algorithm(
        generate=LabelVectors(),
        credit=Pipeline(centre=BatchMean()),
        objective=PolicyGradient(aggregate=SequenceSum()),
        update=GradientUpdate(epochs=3),
    )
