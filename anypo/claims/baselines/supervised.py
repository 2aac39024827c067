"""Claims of `anypo.systems.baselines.supervised`."""

from __future__ import annotations

import dataclasses

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import TOY, Testbed, train
from anypo.exact import ExactTask, StateGraph, patterns
from anypo.systems import find


def exchanged(graph: StateGraph) -> ExactTask:
    """Sparse rewards, and the worked solutions of the other prompts."""
    task = patterns(graph, 4, "sparse")
    return dataclasses.replace(task, targets=(*task.targets[1:], task.targets[0]))


BED = Testbed(reward="sparse", lr=0.05)


@claim("sft", base="the policy before training", seconds=30, stand_in=TOY,
       published="supervised fine-tuning on demonstrations is preferred over the prompted model (InstructGPT, figure 1)")  # fmt: skip
def sft(run: ClaimRun) -> Outcome:
    """Exact reward of the last tenth of 60 steps on worked solutions, one string per prompt being right, against the policy before,
    which is right in less than half of its answers. Control: the same steps on solutions that belong to other prompts. What is
    learned must be the answer to its prompt, not a liking for solutions."""
    steps = run.steps(60)
    method = BED.adapt(find("sft").algorithm()).set({"replay.examples": 4})
    others = run.each(lambda seed: train(method, BED.replace(task=exchanged), steps, seed).final)
    ours = run.each(lambda seed: train(method, BED, steps, seed))
    before = [float(c.value[0]) for c in ours]
    return compare(
        before,
        [c.final for c in ours],
        "mean exact reward at the end",
        run,
        least=0.1,
        controls={"other prompts' solutions": others},
        premise=fails([value < 0.5 for value in before], "less than half of the answers are right at first"),
    )
