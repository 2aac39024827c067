"""Claims of `anypo.systems.objectives.experts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Testbed, finals, mean, mean_final, shown, train
from anypo.claims.beds.worlds import rule_task
from anypo.exact import EnumerablePolicy, EnumerableSampler, StateGraph
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find


@claim("chord", base="grpo", seconds=50, seeds=8, stand_in="an enumerable policy; half of the prompts want a word of four letters",
       published="beats SFT only, RL only, SFT then RL and LUFFY on mathematics and tool use (7B)")  # fmt: skip
def chord(run: ClaimRun) -> Outcome:
    """Experts whose weight falls while the policy explores: exact reward after 250 steps on prompts of which half succeed once in
    several hundred rollouts, against GRPO. Expert solutions of all prompts. Notes: experts only, and their weight fixed at
    the schedule's mean."""
    bed = Testbed(kind="linear", vocabulary=5, task=_words, prompts=8, batch=8, lr=0.03)
    steps = run.steps(250)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("chord", bed, steps, run.seeds)
    for label, mu in (("experts only", 1.0), ("constant weight 0.43", 0.43)):
        fixed = {"objective.mixing": {"part": "annealed", "valley": mu, "peak": mu, "decay": 0}}
        run.note(f"{label}: {mean_final(finals('chord', bed.replace(set=fixed), steps, run.seeds)):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _words(graph: StateGraph) -> Any:
    """Four prompts that want one letter, four that want a word of four."""
    targets = ["a", "b", "c", "d", "abcd", "bdca", "cabd", "dcba"]
    return rule_task(graph, 8, {"correct": lambda p, text: float(text.startswith(targets[p]))}, lambda p: targets[p])


def _style(prompt: int, written_by_expert: bool) -> str:
    """One of two answers to every prompt: a word over a and b, which the policy comes to know, or one over c and d."""
    bits = format((5 * prompt + 3) % 8 if written_by_expert else prompt % 8, "03b")
    return bits.translate(str.maketrans("01", "cd" if written_by_expert else "ab"))


@dataclass(frozen=True)
class OtherStyle(Testbed):
    """A policy that GRPO has taught the first style for `warm` steps, and a task that pays for either; experts write the second."""

    warm: int = 80

    def world(self, seed: int) -> World:
        world = super().world(seed)
        teacher = Trainer(self.replace(set={}).adapt("grpo"), world, seed, self.warm)
        for _ in range(self.warm):
            teacher.step()
        policy = world.policy
        assert isinstance(policy, EnumerablePolicy)
        task = _taught(self.states(), (False, True))
        return World(task, policy, EnumerableSampler(policy, seed=seed))  # type: ignore[arg-type]


def _taught(graph: StateGraph, styles: tuple[bool, ...]) -> Any:
    """Sixteen prompts whose answers in any of the `styles` are right; the solutions are in the last."""
    rule = lambda p, text: float(text.startswith(tuple(_style(p, style) for style in styles)))
    return rule_task(graph, 16, {"correct": rule}, lambda p: _style(p, styles[-1]))


@claim("chord-phi", base="CHORD with the same weight and no phi", seconds=50, seeds=8,
       stand_in="an enumerable policy that solves its task; experts answer in a style it gives one in a thousand",
       published="no dip while learning from experts of another style; entropy neither collapses nor explodes")  # fmt: skip
def chord_phi(run: ClaimRun) -> Outcome:
    """Weights p (1 - p) on the experts' tokens: lowest exact reward over 60 steps of mixing with experts of another, equally right
    style, against plain supervised learning at the same mu = 0.1. Notes: GRPO alone, final rewards and entropies."""
    taught = lambda graph: _taught(graph, (False,))
    bed = OtherStyle(kind="linear", vocabulary=5, prompts=16, batch=16, lr=0.04, task=taught, warm=run.steps(80))
    steps = run.steps(60)
    plain = find("chord-phi").algorithm().set({"objective.experts.weight": "none"})
    runs: dict[str, Algorithm | str] = {"GRPO": "grpo", "no phi": plain, "phi": "chord-phi"}
    found = {label: finals(method, bed, steps, run.seeds) for label, method in runs.items()}
    for label, curves in found.items():
        run.note(
            f"{label}: reward {mean([c.value[0] for c in curves]):.3f} at first, {mean([c.value.min() for c in curves]):.3f} "
            f"at the lowest, {mean_final(curves):.3f} at the end; entropy {mean([c.entropy[-1] for c in curves]):.2f} at the end."
        )
    lowest = [[c.value.min() for c in found[label]] for label in ("no phi", "phi")]
    return compare(lowest[0], lowest[1], "lowest exact reward while mixing", run)


HARD = ("abcda", "bcdab", "cdabc", "dabcd")
"""Answers that a policy over five tokens finds about once in 3000 tries."""


def _easy_and_hard(graph: StateGraph) -> Any:
    """Four prompts that take two of the four first letters, four that take one string of five."""

    def right(prompt: int, text: str) -> float:
        return float(text[:1] in ("a", "b")) if prompt < 4 else float(text == HARD[prompt - 4])

    return rule_task(graph, 8, {"correct": right}, lambda p: "a" if p < 4 else HARD[p - 4])


@claim("hpt", published="AIME 2024 33.0, the best baseline 26.1 (7B); the share of imitation falls by itself", seconds=60, seeds=6,
       stand_in="an enumerable policy (8 prompts: four half-solved, four solved once in 3000 tries)")  # fmt: skip
def hpt(run: ClaimRun) -> Outcome:
    """Imitation exactly where every rollout failed: exact reward over both kinds of prompts after 100 steps, against GRPO. Notes: by
    kind; imitation alone; a constant mixture with the same share of imitation; whether that share falls (Spearman)."""
    bed = Testbed(vocabulary=5, horizon=5, batch=8, lr=0.05, task=_easy_and_hard)
    steps = run.steps(100)
    method = find("hpt").algorithm()
    base, ours = finals("grpo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    imitation = finals(method.set({"filter.survival.0.gate": 1.0}), bed, steps, run.seeds)
    mixed = [
        train(_constant(float(c.metric("filter/expert_share").mean())), bed, steps, s) for c, s in zip(ours, run.seeds)
    ]
    for label, side in (("grpo", base), ("hpt", ours), ("imitation", imitation), ("mixture", mixed)):
        easy, hard = (np.mean([c.values[-1][part].mean() for c in side]) for part in (slice(4), slice(4, 8)))
        run.note(f"{label}: easy {easy:.3f}, hard {hard:.3f}, entropy {shown(c.entropy[-1] for c in side)}.")
    trend = [spearmanr(np.arange(steps), c.metric("filter/expert_share")).statistic for c in ours]
    run.note(f"rank correlation of the share of imitation with the step: {float(np.mean(np.nan_to_num(trend))):.2f}.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _constant(share: float) -> Algorithm:
    """Every prompt keeps its rollouts and its solution, (1 - share) GRPO + share SFT."""
    mixing = {"part": "annealed", "peak": share, "valley": share, "warmup": 0, "decay": 0}
    return find("hpt").algorithm().set({"filter.survival": [], "objective.mixing": mixing})
