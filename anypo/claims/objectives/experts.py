"""Claims of `anypo.systems.objectives.experts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import LEAST, Curves, Testbed, by_reward, finals, mean, mean_final, train
from anypo.claims.beds.worlds import rule_task
from anypo.exact import EnumerablePolicy, EnumerableSampler, StateGraph
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find

SECOND_BEST = "an enumerable policy; experts know the way to answers it never finds, and on easy prompts less than it"
EASY, HARD = ("ab", "bc", "cd", "da"), ("abcda", "bcdab", "cdabc", "dabcd")
"""First letters that are worth 1 and a half; words that a policy over five tokens finds about once in 3000 tries."""


def second_best(graph: StateGraph) -> Any:
    """Four prompts of one letter, where the expert's is worth half of the best; four of a word of five, where the expert's is
    worth 0.6, and with another last letter 1."""

    def worth(prompt: int, text: str) -> float:
        if prompt < 4:
            best, taught = EASY[prompt][0], EASY[prompt][1]
            return 1.0 if text[:1] == best else 0.5 * (text[:1] == taught)
        word = HARD[prompt - 4]
        return 1.0 if text == word[:4] + word[1] else 0.6 * (text == word)

    return rule_task(graph, 8, {"correct": worth}, lambda p: EASY[p][1] if p < 4 else HARD[p - 4])


TAUGHT = Testbed(vocabulary=5, horizon=5, task=second_best, prompts=8, batch=8, lr=0.08)


def _by_kind(run: ClaimRun, **sides: Sequence[Curves]) -> None:
    """Reward on easy and hard prompts, noted."""
    for label, side in sides.items():
        easy, hard = (mean(c.values[-1][part].mean() for c in side) for part in (slice(4), slice(4, 8)))
        run.note(f"{label}: easy {easy:.3f}, hard {hard:.3f}.")


@claim("chord", base="grpo", seconds=80, seeds=6, stand_in=SECOND_BEST,
       published="beats SFT only, RL only, SFT then RL and LUFFY on mathematics and tool use (7B)")  # fmt: skip
def chord(run: ClaimRun) -> Outcome:
    """Experts whose weight falls while the policy explores: exact reward after 120 steps where experts help and are not the best,
    against GRPO. Controls: experts only, and their weight fixed at the schedule's mean over the run (0.26). Set with seeds
    1,000,000 and up. Notes: by kind of prompt."""
    steps = run.steps(120)
    base, ours = finals("grpo", TAUGHT, steps, run.seeds), finals("chord", TAUGHT, steps, run.seeds)
    fixed = {
        label: finals("chord", TAUGHT.replace(set={"objective.mixing": _always(mu)}), steps, run.seeds)
        for label, mu in (("experts only", 1.0), ("constant weight 0.26", 0.26))
    }
    _by_kind(run, grpo=base, chord=ours, experts=fixed["experts only"], constant=fixed["constant weight 0.26"])
    return by_reward(base, ours, run, "final", controls=fixed)


def _always(mu: float) -> dict[str, Any]:
    return {"part": "annealed", "peak": mu, "valley": mu, "warmup": 0, "decay": 0}


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
    dips = fails([c.value.min() < c.value[0] - 0.02 for c in found["no phi"]], "without phi the reward dips by 0.02")
    return compare(lowest[0], lowest[1], "lowest exact reward while mixing", run, least=LEAST, premise=dips)


def erring(graph: StateGraph) -> Any:
    """Four prompts that take two of the four first letters, for two of which the expert's answer is wrong; four that take one word
    of five, which the expert knows."""

    def right(prompt: int, text: str) -> float:
        return float(text[:1] in ("a", "b")) if prompt < 4 else float(text == HARD[prompt - 4])

    return rule_task(graph, 8, {"correct": right}, lambda p: "acac"[p] if p < 4 else HARD[p - 4])


ERRING = Testbed(vocabulary=5, horizon=5, batch=8, lr=0.05, task=erring)


@claim("hpt", published="AIME 2024 33.0, the best baseline 26.1 (7B); the share of imitation falls by itself", seconds=80, seeds=6,
       stand_in="an enumerable policy (8 prompts: four half-solved, where half of the experts err; four never solved)")  # fmt: skip
def hpt(run: ClaimRun) -> Outcome:
    """Imitation exactly where every rollout failed: exact reward over both kinds of prompts after 100 steps, against GRPO, where
    imitation is needed for half of the prompts and misleads in a quarter. Controls: imitation alone, and a constant mixture with the
    same share of imitation. Set with seeds 1,000,000 and up (at first with experts who never err, where imitation alone is best).
    Notes: by kind of prompt; whether that share falls (Spearman)."""
    steps = run.steps(100)
    method = find("hpt").algorithm()
    base, ours = finals("grpo", ERRING, steps, run.seeds), finals(method, ERRING, steps, run.seeds)
    imitation = finals(method.set({"filter.survival.0.gate": 1.0}), ERRING, steps, run.seeds)
    mixed = [
        train(_constant(float(c.metric("filter/expert_share").mean())), ERRING, steps, s)
        for c, s in zip(ours, run.seeds)
    ]
    _by_kind(run, grpo=base, hpt=ours, imitation=imitation, mixture=mixed)
    trend = [spearmanr(np.arange(steps), c.metric("filter/expert_share")).statistic for c in ours]
    run.note(f"rank correlation of the share of imitation with the step: {float(np.mean(np.nan_to_num(trend))):.2f}.")
    controls = {"imitation": imitation, "constant mixture": mixed}
    return by_reward(base, ours, run, "final", controls=controls)


def _constant(share: float) -> Algorithm:
    """Every prompt keeps its rollouts and its solution, (1 - share) GRPO + share SFT."""
    return find("hpt").algorithm().set({"filter.survival": [], "objective.mixing": _always(share)})
