"""What a tree of answers costs beside as many tokens sampled independently.

    python -m benchmarks.trees [--model smollm2-135m] [--leaves 64] [--max-new 56] [--rounds 3]

A tree of `doubling_tree` for one prompt, every answer as long as it may be, and as many independent answers as have together the
tokens that the tree drew; in turns, each time after new weights, so that nothing found in memory helps. Seconds are those of one core
for the whole generator, scoring included; computed are the tokens that ran through the layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch

from anypo import policies, tasks
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.engine.local import LocalEngine
from anypo.generate import DoublingTree, Generate, Independent
from anypo.generate.base import World


@dataclass(frozen=True)
class Cost:
    """Answers, the decisions they have, tokens drawn and computed for them, and seconds."""

    answers: int
    decisions: int
    drawn: int
    computed: int
    seconds: float


def cost(part: Generate, samples: int, world: World, turn: int) -> Cost:
    """Of one prompt's group, under weights that nothing is known of."""
    world.policy.version += 1
    stats = world.sampler.stats
    drawn, computed, began = stats.sampled, stats.computed, time.process_time()
    (group,) = part.rollout([Ask(0, samples, visit=turn)], world, Context(0, 1, 0, Memory(part)))
    seconds = time.process_time() - began
    lengths = [len(t) for t in group.trajectories]
    return Cost(len(lengths), sum(lengths), stats.sampled - drawn, stats.computed - computed, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trees", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--leaves", type=int, default=64)
    parser.add_argument("--max-new", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    policy = policies.load(given.model)
    engine = LocalEngine(policy.model, policy.tokenizer, version=lambda: policy.version)
    engine.eos = frozenset()  # every answer is as long as it may be
    world = World(tasks.load({"name": "sums"}), policy, engine)
    tree, apart = DoublingTree(max_new=given.max_new), Independent(max_new=given.max_new)
    pairs: list[tuple[Cost, Cost]] = []
    for turn in range(given.rounds + 1):  # the first one warms up
        ours = cost(tree, given.leaves, world, turn)
        pairs.append((ours, cost(apart, round(ours.drawn / given.max_new), world, turn)))
    for name, costs in zip(("tree", "independent"), zip(*pairs[1:])):
        last, seconds = costs[-1], statistics.median(one.seconds for one in costs)
        print(
            f"{given.model}, {name}: {last.answers} answers of {last.decisions} tokens, {last.drawn} drawn, {last.computed} computed, "
            f"{seconds:.3f} s"
        )
    ratios = [a.seconds / a.drawn / (b.seconds / b.drawn) for a, b in pairs[1:]]
    print(
        f"seconds for a token drawn, tree / independent: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
