"""Methods that choose in which proportions the tasks of a mixture are met."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control.mixtures.proposed import Proposed
from anypo.generate import Worked
from anypo.replay import OnPolicy
from anypo.systems.baselines.supervised import sft
from anypo.systems.registry import system


@system("op-mix", title="On-Policy Mix", paper="arXiv:2605.15220", base="sft")
def op_mix() -> Algorithm:
    """Supervised fine-tuning on several tasks, in proportions that are chosen anew four times in a run, for the policy as it is
    then. A phase begins with probes: adapters of rank 16 on a copy of the policy, trained for a quarter of the phase, one in the
    present proportions and one for each source with 90 % of it. Twenty sums of their weights stand for models trained on as many
    mixtures, at no training of their own; their losses on the worked solutions of every source give one law a source, exp(c) + exp(t
    . w), and the proportions w with the smallest mean of exp(t . w) + 0.05 KL(w || q) are trained on until the next phase. q is what
    the mixture states: --task '{mix: [...]}' with weights by size, say. The first fifth of the run has q (michahu/on-policy-mix
    0b4469c, pipeline/pretrain_opm.py; there the proportions are found once, after that fifth, and its continual pipeline finds them
    once a stage from two probes and nine points between them). There the law's argument is the shares of the probes, here the
    proportions that these amount to, as in its continual pipeline; losses are taken on training problems, since held-out ones judge
    the run. Probes have twice the learning rate, and a fresh optimiser. Their tokens are counted as trained (control/probe_tokens):
    with d sources (d + 1)/4 of what the phase itself trains on. A phase has to be long: after a few dozen steps the sums hardly
    differ and q comes back (control/loss_spread says how far they are apart). For reinforcement (ours): --system grpo --set
    control=proposed --set control.read=errors has the share of wrong answers as the loss."""
    return sft().replace(control=Proposed(prompts=64, samples=1), generate=Worked(), replay=OnPolicy())
