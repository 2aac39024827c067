"""Methods whose rollouts branch: trees of answers that share what they begin with."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.subtrees import Subtrees
from anypo.credit.critics.gae import GAE
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Whiten
from anypo.credit.select.rollouts import OwnDecisions
from anypo.credit.shaping.outcomes import Overlong, Unended
from anypo.credit.shaping.reward_kl import RewardKL
from anypo.credit.shaping.unit import UnitRewards
from anypo.generate import DatasetReset, DoublingTree, LookaheadTree
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.regularisers.terms import KL
from anypo.systems.baselines.group_relative import dapo, grpo
from anypo.systems.baselines.reinforcement import ppo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate


@system("treepo", title="TreePO", paper="arXiv:2508.17445", base="dapo")
def treepo() -> Algorithm:
    """Samples a prompt's sixteen answers as a tree, in at most fourteen segments: two begin, every live path is continued twice
    after each segment until there are sixteen, and where answers end too early, others go on from inside them; what is shared is
    decoded once. An answer's advantage is the mean over its depths of its reward minus the mean reward of all answers that share
    its beginning down to there, whitened over the tokens of the batch. DAPO's clip, filter, length penalty (512 of 7168 tokens) and
    sixteen minibatches. Every leaf trains all its tokens, so a shared token counts once for each; the paper's advantages by segment,
    with shared tokens trained once, are ``credit.granularity=tree_values`` with ``credit.select=[own_decisions]``. The release's
    script asks for a random first fork of 2 to 8 and for repetition to stop paths first under names that are not read, as here; its
    window for falling back, -1, is read, and leaves no boundary to draw: here it is a segment, as its functions default to."""
    return dapo().replace(
        control=Uniform(samples=16),
        generate=DoublingTree(),
        credit=Pipeline(shaping=(Overlong(limit=7168, buffer=512),), centre=Subtrees(), normalise=Whiten(over="rows")),
    )


@system("latr", title="Lookahead Tree-Based Rollouts", paper="arXiv:2510.24302", base="grpo")
def latr() -> Algorithm:
    """GRPO whose groups come from a tree at first, so that their members differ where it matters: branches decode greedily, each
    close second choice begins another, one that has come to the same as its parent after 20, 30 or 50 tokens is dropped, and those
    left are sampled to their ends. The share of the tree falls from all of the group to none at 40 % of the run. Branching and greedy
    tokens are trained as if they had been sampled, as in the release, where nothing corrects for it. KL 0.01 to the initial model,
    and a mean over all tokens of the batch, which its scripts leave to verl 0.5. Settings are those of its Countdown runs; of its
    maths runs: ``generate.rival=0.15 generate.gap=0.25 generate.edit=null generate.ending=0.2 generate.overlap=0.5`` and a schedule
    of 0: 1, 100: 0.75, 200: 0.5, 300: 0.25. Ours: a tree is full by itself (there at 93 to 98 % over the whole batch), it grows for
    half of the longest answer (there 512 of 1024), and sparing children at signs of mathematics leaves the other comparisons where
    they belong (there they slip to the next child) and does not spare white space (there a token without letters is found in the list
    of signs, as an empty text is in any)."""
    return grpo().replace(
        generate=LookaheadTree(),
        objective=PolicyGradient(regularise=(KL(coefficient=0.01),)),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("dr-po", title="Dataset Reset Policy Optimization", paper="arXiv:2404.08495", base="ppo")
def dr_po() -> Algorithm:
    """PPO that is put where good answers have been: every rollout begins with a random part of the problem's worked solution,
    never all of it, and goes on by itself, so that a reward is met that exploring from the prompt would not meet. The tokens given
    count in the KL, the critic and the whitening, and not in the policy's loss. Rewards of decisions are whitened around their
    mean, advantages over all decisions, an answer without an end is worth -1. By default no rollout begins at the bare prompt,
    where the policy is used: its first token is learnt from the others only (``generate.share=0.5`` mixes). Solutions want steps in
    them: of a bare answer of one token all is given, and only its end is left to find. Ours: no decision
    behind an answer's end counts, where the release whitens, and trains, up to 53 tokens for every answer; its temperature of 0.7
    and its rate, 3e-6 falling linearly, are sizes of a run."""
    credit = GAE(
        lam=0.95,
        coefficient=0.1,
        clip=0.2,
        over="all",
        shaping=(Unended(), RewardKL(coefficient=0.05), UnitRewards()),
        select=(OwnDecisions(),),
    )
    return ppo().replace(generate=DatasetReset(), credit=credit)
