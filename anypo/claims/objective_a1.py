"""Claims about using experience more than once or late: reuse, prefix weights, balanced clips, masks, curvature, windows, experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, Verdict, claim, compare, not_worse
from anypo.claims.credit_memory import hard_and_easy
from anypo.claims.credit_worlds import finals, rule_task
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.exact import EnumerablePolicy, EnumerableSampler, ExactTask, StateGraph
from anypo.exact.policy import LETTERS
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find

TOY = "an enumerable policy with shared features (16 prompts, answers of 4 tokens) for the language model"

SHARED = Testbed(kind="linear", task=hard_and_easy, prompts=16, batch=8, lr=0.05)
"""Prompts of initial success from a quarter to a few in a thousand, whose answers share parameters."""


@claim("remix", base="grpo", seconds=50, seeds=12, stand_in=TOY,
       published="DeepScaleR's accuracy with 0.079M instead of 2.519M rollouts (1.5B); -4.84 without reincarnation")  # fmt: skip
def remix(run: ClaimRun) -> Outcome:
    """Reuse saves rollouts: rollouts until the exact reward is 80 % of the best that on-policy GRPO reaches (over all seeds), 64 per
    step for both; not reached counts as the whole run. Notes: final rewards, each part of the method removed, GRPO with as
    many passes over its data, and the published way to break it (90 % old data)."""
    steps = run.steps(150)
    base, ours = finals("grpo", SHARED, steps, run.seeds), finals("remix", SHARED, steps, run.seeds)
    threshold = 0.8 * _mean([c.value.max() for c in base])
    needed = [[_rollouts(c, threshold, SHARED) for c in curves] for curves in (base, ours)]
    run.note(
        f"threshold {threshold:.3f}; exact reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} (remix)."
    )
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "GRPO, every batch used twice": ("grpo", {"update.epochs": 2}),
        "without reincarnation of the reference": ("remix", {"update.reference.at": 10**6}),
        "without old data": ("remix", {"replay.fraction": 0.0}),
        "90 % old data": ("remix", {"replay.fraction": 0.9}),
    }
    for label, (system, change) in changes.items():
        other = finals(system, SHARED.replace(set=change), steps, run.seeds[:6])
        spent = _mean([_rollouts(c, threshold, SHARED) for c in other])
        run.note(f"{label}: {spent:.0f} rollouts, {_final(other):.3f} at the end (first six seeds).")
    return compare(needed[0], needed[1], "rollouts until 80 % of GRPO's best reward", run, larger=False)


def _rollouts(curves: Curves, threshold: float, bed: Testbed) -> float:
    return min(curves.steps_to(threshold), len(curves.value) - 1) * bed.batch * bed.group


STALE = SHARED.replace(old="sampler", lr=0.1)
"""Rollouts of older policies, which every importance ratio divides by."""


@claim("minpro", base="cispo", seconds=60, seeds=12, stand_in="an enumerable policy with shared features, answers of up to 6 tokens",
       published="stable under large lag where GRPO, GSPO and CISPO collapse; pass@1 59.4 (8B)")  # fmt: skip
def minpro(run: ClaimRun) -> Outcome:
    """The smallest earlier ratio in every token's weight: exact reward after 150 steps on rollouts that are 16 updates old, against
    CISPO with the same upper bound and learning rate. Notes: runs that lost half of their own peak, and the largest
    drop below the best reward so far."""
    bed, steps = STALE.replace(horizon=6, lag=16), run.steps(150)
    base, ours = finals("cispo", bed, steps, run.seeds), finals("minpro", bed, steps, run.seeds)
    collapsed = [sum(c.collapsed() for c in curves) for curves in (base, ours)]
    run.note(f"collapsed: {collapsed[0]} (cispo), {collapsed[1]} (minpro) of {len(base)} runs.")
    run.note(f"largest drop: {_drop(base):.3f} (cispo), {_drop(ours):.3f} (minpro).")
    run.note(f"reward over training: {_area(base):.3f} (cispo), {_area(ours):.3f} (minpro).")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("bapo", base="grpo", seconds=50, seeds=20, stand_in=TOY,
       published="entropy and reward stay up under partial rollouts, where a fixed clip collapses; beats o3-mini (32B)")  # fmt: skip
def bapo(run: ClaimRun) -> Outcome:
    """Searched instead of fixed bounds: entropy after 150 steps of partial rollouts whose tokens are 0 to 8 updates old, against
    GRPO's fixed 0.8 and 1.2. Reproduced only if, besides, the exact reward is not lower by more than 0.02. At first nine of ten
    rollouts fail. Notes: both rewards and the upper bound found."""
    bed, steps = STALE.replace(lag=8, versions="partial"), run.steps(150)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("bapo", bed, steps, run.seeds)
    bound = _mean([c.metric("objective/clip_high").mean() for c in ours])
    run.note(
        f"exact reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} (bapo); mean upper bound {bound:.2f}."
    )
    reward = not_worse([c.final for c in base], [c.final for c in ours], 0.02, "", run)
    run.note(
        f"reward not lower by more than 0.02: {reward.verdict} ({reward.effect:+.3f} [{reward.low:.3f}, {reward.high:.3f}])."
    )
    entropy = compare([c.entropy[-1] for c in base], [c.entropy[-1] for c in ours], "entropy after training, nats", run)
    return replace(entropy, verdict=weaker(entropy.verdict, reward.verdict))


def weaker(*verdicts: Verdict) -> Verdict:
    """The least favourable of several verdicts that must all hold."""
    order: tuple[Verdict, ...] = ("not_reproduced", "direction_only", "reproduced")
    return min(verdicts, key=order.index)


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
        run.note(f"{label}: {_final(finals('chord', bed.replace(set=fixed), steps, run.seeds)):.3f}.")
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
    runs = {"GRPO": "grpo", "no phi": plain, "phi": "chord-phi"}
    found = {label: finals(method, bed, steps, run.seeds) for label, method in runs.items()}
    for label, curves in found.items():
        run.note(
            f"{label}: reward {_mean([c.value[0] for c in curves]):.3f} at first, {_mean([c.value.min() for c in curves]):.3f} "
            f"at the lowest, {_final(curves):.3f} at the end; entropy {_mean([c.entropy[-1] for c in curves]):.2f} at the end."
        )
    lowest = [[c.value.min() for c in found[label]] for label in ("no phi", "phi")]
    return compare(lowest[0], lowest[1], "lowest exact reward while mixing", run)


@claim("rec", base="REC without a mask", seconds=60, seeds=12, stand_in=TOY,
       published="REINFORCE collapses off-policy; with one-sided clipping it matches GRPO, importance weights or not")  # fmt: skip
def rec(run: ClaimRun) -> Outcome:
    """The mask stabilises, the importance weight does not matter: exact reward after 40 synchronisations with 16 updates between
    them, against the same group REINFORCE without a mask. Notes: with importance weights, with the wide bounds (0.6, 2.0), and
    how far the policy moved between synchronisations."""
    bed = STALE.replace(batch=16, old="trainer", set={"update.minibatches_per_epoch": 16})
    steps = run.steps(40)
    region = "objective.trust.region"
    variants: dict[str, dict[str, Any]] = {
        "no mask": {region: "everywhere"},
        "one-sided": {},
        "one-sided, importance weights": {"objective.trust.weight": "ratio"},
        "one-sided, wide": {f"{region}.low": 0.6, f"{region}.high": 2.0},
    }
    found = {}
    for label, change in variants.items():
        found[label] = finals(find("rec").algorithm().set(change), bed, steps, run.seeds)
        moved = _mean([c.metric("objective/kl_old").max() for c in found[label]])
        run.note(f"{label}: {_final(found[label]):.3f}, largest KL from the sampler {moved:.2f} nats.")
    base, ours = found["no mask"], found["one-sided"]
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("capo-curvature", base="grpo", seconds=60, seeds=12, stand_in=TOY,
       published="stable at a learning rate at which GRPO collapses; MATH 72 % with 5K instead of 150K completions")  # fmt: skip
def capo_curvature(run: ClaimRun) -> Outcome:
    """Two prompts per step at ten times the learning rate that suits them: exact reward after 150 steps, against GRPO. The shift
    allowed to a token is the smallest power of ten at which less than 8 % of the tokens are rejected (the paper's share), found
    on one world of its own. Notes: GRPO at the suitable rate, and runs that end below half of what it reaches there."""
    bold, steps = SHARED.replace(batch=2, lr=1.0), run.steps(150)
    ours_method = _allowing(bold, run.steps(100), run)
    calm = finals("grpo", bold.replace(lr=0.1), steps, run.seeds)
    base, ours = finals("grpo", bold, steps, run.seeds), finals(ours_method, bold, steps, run.seeds)
    stuck = [sum(c.final < 0.5 * _final(calm) for c in curves) for curves in (base, ours)]
    run.note(
        f"GRPO at a tenth of the rate: {_final(calm):.3f}; below half of it: {stuck[0]} (grpo), {stuck[1]} (capo)."
    )
    run.note(f"rejected: {_mean([c.metric('update/rejected_share').mean() for c in ours]):.3f} of the tokens.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _allowing(bed: Testbed, steps: int, run: ClaimRun) -> Algorithm:
    """CAPO with the smallest allowed shift, a power of ten, that rejects less than 8 % of the tokens in a world of its own."""
    for power in range(-2, 4):
        method = find("capo-curvature").algorithm().set({"update.rules.0.shift": 10.0**power})
        rejected = train(method, bed, steps, 7).metric("update/rejected_share").mean()
        if rejected < 0.08:
            break
    run.note(f"allowed shift: {10.0**power:g} nats.")
    return method


WINDOW = 8


@claim("t-ppo", base="PPO on whole answers", seconds=60, seeds=6,
       stand_in="an enumerable policy with answers of up to 24 tokens, decoded in lockstep",
       published="2.5 times the training efficiency, 60 % less wall-clock time, AIME 2024 as good or better (32B)")  # fmt: skip
def t_ppo(run: ClaimRun) -> Outcome:
    """Windows of a third of the longest answer: decoding time until the exact reward is 0.75, against the same system with windows
    as long as the longest answer, which is PPO. All 32 slots decode in lockstep, so a step takes as long as its longest
    extension; not reached counts as the whole run. Both have the same decoding time, and a critic that starts at zero."""
    bed = Testbed(graph="chain", kind="linear", horizon=24, task=spaced, lr=0.03, critic_lr=0.05)
    steps = run.steps(130)
    base = run.each(lambda seed: _timed(bed, 24, steps, seed))
    budget = _mean([clock[-1] for clock, _ in base])
    ours = run.each(lambda seed: _timed(bed, WINDOW, int(budget) // WINDOW, seed))
    spent = [[_time_to(0.75, *timed, budget) for timed in runs] for runs in (base, ours)]
    run.note(f"speed-up {_mean(spent[0]) / _mean(spent[1]):.2f}; decoding time {budget:.0f} for each run.")
    run.note(
        f"exact reward at the end: {_mean([v[-1] for _, v in base]):.3f} (whole), {_mean([v[-1] for _, v in ours]):.3f} (windows)."
    )
    return compare(spent[0], spent[1], "decoding time to an exact reward of 0.75", run, larger=False)


def spaced(graph: StateGraph) -> ExactTask:
    """Four prompts that want a particular letter at positions 0, 5 and 10, a third of the reward each; answers may end anywhere."""
    prompts, places = 4, (0, 5, 10)
    reward, depth, targets = (
        torch.zeros(prompts, graph.states, graph.vocabulary, dtype=torch.float64),
        graph.depth(),
        [],
    )
    wanted = 1 + torch.randint(0, graph.vocabulary - 1, (prompts, 3), generator=torch.Generator().manual_seed(0))
    for prompt, letters in enumerate(wanted.tolist()):
        word = ["a"] * 11
        for place, letter in zip(places, letters):
            reward[prompt, depth == place, letter] = 1 / 3
            word[place] = LETTERS[letter - 1]
        targets.append("".join(word))
    return ExactTask(graph, reward, tuple(targets))


def _timed(bed: Testbed, window: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decoding time and exact reward after every step, both [steps + 1]."""
    ticks = [0]

    def watch(trainer: Trainer) -> None:
        extensions = (len(t) - t.extra["window"] for group in trainer.groups for t in group.trajectories)
        ticks.append(max(extensions, default=0))

    curves = train("t-ppo", bed.replace(set={"generate.window": window}), steps, seed, watch)
    return np.cumsum(ticks), curves.value


def _time_to(threshold: float, clock: np.ndarray, value: np.ndarray, budget: float) -> float:
    reached = np.flatnonzero(value >= threshold)
    return float(min(clock[reached[0]], budget)) if len(reached) else budget


@claim("lite-ppo", base="grpo", published="beats GRPO and DAPO on small base models (Qwen3-4B and 8B) over six benchmarks",
       seconds=50, seeds=20, stand_in=TOY)  # fmt: skip
def lite_ppo(run: ClaimRun) -> Outcome:
    """One deviation for the whole batch and a mean over tokens: mean exact reward over 40 steps of 4 updates each on prompts of
    mixed difficulty, against GRPO. Notes: DAPO, and steps whose gradient exceeds five times the run's median."""
    bed = SHARED.replace(batch=16, set={"update.minibatches_per_epoch": 4})
    steps = run.steps(40)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("lite-ppo", bed, steps, run.seeds)
    run.note(f"DAPO: {_area(finals('dapo', bed, steps, run.seeds)):.3f}.")
    run.note(f"share of spikes: {_spikes(base):.3f} (grpo), {_spikes(ours):.3f} (lite-ppo).")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


def _spikes(curves: Sequence[Curves]) -> float:
    norms = [c.metric("update/grad_norm") for c in curves]
    return _mean([(norm > 5 * np.median(norm)).mean() for norm in norms])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _final(curves: Sequence[Curves]) -> float:
    return _mean([c.final for c in curves])


def _area(curves: Sequence[Curves]) -> float:
    return _mean([c.area for c in curves])


def _drop(curves: Sequence[Curves]) -> float:
    return _mean([float((np.maximum.accumulate(c.value) - c.value).max()) for c in curves])
