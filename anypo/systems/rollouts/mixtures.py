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
    """Supervised fine-tuning on several tasks, in proportions that are chosen for the policy as it is after a fifth of the run. Probes
    are adapters of rank 16 on a copy of it, trained for a quarter of the run's steps: one in the present proportions and one for each
    source with 90 % of it. Twenty sums of their weights stand for models trained on as many mixtures, at no training of their own;
    their losses on the worked solutions of every source give one law a source, exp(c) + exp(t . w), and the proportions w with the
    smallest mean of exp(t . w) + 0.05 KL(w || q) are trained on from then. q is what the mixture states and the first fifth has:
    --task '{mix: [...]}', with weights by size, say (michahu/on-policy-mix 0b4469c, pipeline/pretrain_opm.py). The law's argument is
    the proportions that a sum of probes amounts to, as in the release's continual pipeline; its pretraining one takes the shares of
    the probes. Losses are taken on training problems, since held-out ones judge the run. Probes have twice the learning rate and a
    fresh optimiser. They are not cheap: with d sources (d + 1)/4 of what the run itself trains on, counted as trained tokens
    (control/probe_tokens); --set control.steps=0.05 is a fifth of that. After a few steps the sums hardly differ and q comes back
    (control/loss_spread says how far they are apart). --set control.every=0.2 chooses again and again. For reinforcement (ours):
    --system grpo --set control=proposed --set control.read=errors has the share of wrong answers as the loss."""
    return sft().replace(control=Proposed(prompts=64, samples=1), generate=Worked(), replay=OnPolicy())
