"""Claims of `anypo.systems.baselines.supervised`."""

from __future__ import annotations

import dataclasses

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Testbed, mean_final, train
from anypo.exact import ExactTask, StateGraph, patterns
from anypo.systems import find


def exchanged(graph: StateGraph) -> ExactTask:
    """Sparse rewards, and the worked solutions of the other prompts."""
    task = patterns(graph, 4, "sparse")
    return dataclasses.replace(task, targets=(*task.targets[1:], task.targets[0]))


BED = Testbed(reward="sparse", lr=0.05)


@claim("sft", base="sft on other prompts' solutions", seconds=30, stand_in=TOY,
       published="supervised fine-tuning on demonstrations is preferred over the prompted model (InstructGPT, figure 1)")  # fmt: skip
def sft(run: ClaimRun) -> Outcome:
    """Mean exact reward of the last tenth of 60 steps on worked solutions, one string per prompt being right, against the same steps
    on solutions that belong to other prompts: what is learned must be the answer to its prompt, not a liking for solutions. The
    policy's reward before training is noted."""
    steps = run.steps(60)
    method = BED.adapt(find("sft").algorithm()).set({"replay.examples": 4})
    base = run.each(lambda seed: train(method, BED.replace(task=exchanged), steps, seed))
    ours = run.each(lambda seed: train(method, BED, steps, seed))
    run.note(f"before training: {sum(c.value[0] for c in ours) / len(ours):.3f}; at the end {mean_final(ours):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "mean exact reward at the end", run)
