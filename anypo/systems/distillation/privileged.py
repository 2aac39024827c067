"""Methods whose teacher is the policy itself in a context that says more."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.plain import Uncredited
from anypo.generate import Independent
from anypo.objective.aggregates import SequenceMean
from anypo.objective.distil.divergences import Distil
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.references import FrozenReference


@system("opsd", title="On-Policy Self-Distillation", paper="arXiv:2601.18734", base="gkd")
def opsd() -> Algorithm:
    """The policy answers the problem; the same network, shown the worked solution first, says at every token of that answer how it
    would go on, and the policy is pulled towards this: the Jensen-Shannon divergence (beta 0.5) of the two next-token
    distributions, over the whole vocabulary at the sampling temperature, mean over each answer's tokens (as with the launch
    script's one answer per device: --set objective.aggregate=token_mean counts all tokens of the batch alike). No reward, no
    advantage. One answer per prompt, 32 prompts, at temperature 1.1, top-p 0.95 and top-k 20; the loss knows no truncation. The launch
    scripts train adapters of rank 64 at 2e-4 (--lora 64 --set update.optimiser.lr=2e-4). In the first runs the policy's prompt had
    lost its chat template while the teacher's had one, a slip the release documents; here both have it. The teacher has the initial
    weights, as in those scripts (for LoRA the base); the release's default is the policy's own weights, without gradient:
    --set objective.source=old; a moving average: --set update.reference='{part: ema, decay: 0.999}'. Later releases bound what one
    token of the vocabulary adds (--set objective.divergence.clip=0.05), which their first runs did not, use forward KL
    (--set objective.divergence.beta=0), or the teacher's likeliest tokens only (--set objective.divergence.top=50);
    --set objective.divergence.beta=1 is reverse KL, and its estimate by the sampled tokens --set objective=log_ratio.
    The task must have solutions; a problem without one shows its answer."""
    return Algorithm(
        control=Uniform(prompts=32, samples=1),
        generate=Independent(temperature=1.1, top_p=0.95, top_k=20),
        credit=Uncredited(),
        objective=Distil(aggregate=SequenceMean()),
        update=GradientUpdate(reference=FrozenReference()),
    )
