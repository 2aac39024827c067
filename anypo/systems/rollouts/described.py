"""Methods whose answers another model reasons out of what the policy says it sees."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.filter import Propagated, Screen
from anypo.generate import Described
from anypo.replay import Dataset
from anypo.systems.baselines.supervised import sft
from anypo.systems.registry import system


@system(
    "sophia",
    title="Semi-off-policy slow thinking (SOPHIA)",
    paper="arXiv:2507.16814",
    base="sft",
    excuses={"checks": "needs a model that reasons, which no default can name"},
    needs={"models": [{"role": "reasoner", "model": "self"}]},
)
def sophia() -> Algorithm:
    """Supervised fine-tuning on answers that are half the policy's own. In the first fifth of the run the policy describes what a
    prompt shows, eight times; another model, which reads text only, reasons eight answers out of each description; a description is
    worth the share of them that is right. Of the prompt's answers the shortest one that is right and comes from a description worth
    more than 0.5 (five of its eight answers) is kept, of equally short ones the first. The rest of the run passes over what was
    kept: its likelihood is raised given what the prompt shows, never given the description. So the policy learns to reason about
    what it sees itself, and a lucky answer to a wrong description teaches nothing. The importance weight is 1, there is no KL and
    no clip: with rewards of 0 and 1 that is maximum likelihood, every token alike. Descriptions are not trained. The reasoner has
    to be named: --model-as reasoner=PATH (a model, a server or a program), and the task must show something: a column of the file
    with the part of the prompt that only the policy sees (--set generate.picture=COLUMN), or images, for a policy that reads them.
    No code is published, and the threshold was not at hand: 0.5 is ours, as are the share of the run and the learning rate (that of
    sft). To describe anew in every step: --set replay=on_policy --set generate.until=0; a small model that learns to answer forgets
    how to describe. The warm-up on captions and the text-only data that the paper mixes in are not built. Short answers win, so
    that a reasoner that answers without reasoning teaches just that."""
    return sft().replace(
        generate=Described(until=0.2), filter=Screen(survival=(Propagated(),)), replay=Dataset(collect=0.2)
    )
