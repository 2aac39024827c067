"""Methods whose rollouts branch: trees of answers that share what they begin with."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.centres.subtrees import Subtrees
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Whiten
from anypo.credit.shaping.outcomes import Overlong
from anypo.generate import DoublingTree
from anypo.systems.baselines.group_relative import dapo
from anypo.systems.registry import system


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
