"""Supervised fine-tuning: the method that reinforcement learning starts from, and is compared with."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.generate.nothing import Nothing
from anypo.objective.supervised import Supervised
from anypo.replay.solutions import Solutions
from anypo.systems.registry import system
from anypo.update.gradient import GradientUpdate
from anypo.update.optimisers import AdamW


@system("sft", title="Supervised Fine-Tuning", paper="arXiv:2203.02155", base="sft")
def sft() -> Algorithm:
    """No rollouts: every step trains on the worked solutions of 64 training problems (--set replay.examples), by the mean negative
    log-likelihood of their tokens, prompts left out. A file needs a column of solutions: --task data.jsonl --task-set
    solution=COLUMN. The first stage of InstructGPT's pipeline, at the learning rate of its models up to 6 billion parameters,
    9.65e-6; these ran for 16 epochs of batches of 32 with a cosine down to a tenth and dropout, here the rate is constant and
    nothing is dropped."""
    return Algorithm(
        generate=Nothing(),
        replay=Solutions(),
        objective=Supervised(),
        update=GradientUpdate(optimiser=AdamW(lr=9.65e-6)),
    )
