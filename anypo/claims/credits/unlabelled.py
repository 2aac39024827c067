"""Claims of `anypo.systems.credits.unlabelled`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, learns
from anypo.claims.beds.exact import Testbed, finals, learning
from anypo.claims.beds.worlds import generated, rule_task
from anypo.exact import EnumerablePolicy, EnumerableSampler, StateGraph, tree
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find


def _votable(graph: StateGraph) -> Any:
    """Eight prompts with one right answer of two letters each."""
    targets = ["ab", "bc", "ca", "ba", "cb", "ac", "aa", "bb"]
    return rule_task(graph, 8, {"correct": lambda p, text: float(text == targets[p])}, lambda p: targets[p])


VOTES = Testbed(vocabulary=4, horizon=3, prompts=8, batch=8, group=14, lr=0.03, task=_votable)


WHOLE = {"filter.signals.0.answer": "whole"}


class Leaning(Testbed):
    """A testbed whose policy already leans towards the right answers, more on some prompts than on others."""

    def world(self, seed: int) -> World:
        world = super().world(seed)
        policy, task = world.policy, world.task
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            table = policy.logits().clone()
            for prompt, target in enumerate(task.targets):  # type: ignore[attr-defined]
                push = rng.uniform(0.8, 2.4)
                state = 0
                for token in np.asarray(policy.answer(target)).tolist():
                    table[prompt, state, token] += push
                    state = int(policy.graph.child[state, token])
                    if state < 0:
                        break
            policy.weight.copy_(table.reshape(policy.weight.shape))
        return world


LEANING = Leaning(**{name: getattr(VOTES, name) for name in VOTES.__dataclass_fields__})


@claim("ttrl", base="initial", published="AIME 2024 pass@1 +211 % for a 7B math model, without labels", seconds=30, seeds=6,
       stand_in="an enumerable policy that starts at a third right, eight prompts")  # fmt: skip
def ttrl(run: ClaimRun) -> Outcome:
    """Majority votes of 14 rollouts as only reward: exact accuracy after 60 steps against the policy before. Notes: accuracy of the
    majority's answer at the first and the last step."""
    runs = finals(find("ttrl").algorithm().set(WHOLE), LEANING, run.steps(60), run.seeds)
    label = [c.metric("filter/pseudo_label_accuracy") for c in runs]
    run.note(
        f"accuracy of the pseudo-labels: {np.mean([x[0] for x in label]):.2f} to {np.mean([x[-1] for x in label]):.2f}."
    )
    return compare([c.value[0] for c in runs], [c.final for c in runs], "exact accuracy", run)


@claim("ettrl", base="ttrl with 1/0.6 of the tokens", seconds=60, seeds=6,
       published="+68 % relative pass@1 on AIME 2024 over TTRL with 60 % of the rollout tokens (8B)",
       stand_in="an enumerable policy that starts at a third right, eight prompts")  # fmt: skip
def ettrl(run: ClaimRun) -> Outcome:
    """Entropy-fork trees of 14 leaves and confidence-weighted advantages against separate rollouts of so many tokens that ours
    are 60 % of them, as the paper compares: mean exact accuracy over 60 steps. Controls: separate rollouts at equal tokens, and
    the same trees without the reshaping. An effect below 0.02 does not matter."""
    steps, method = run.steps(60), find("ettrl").algorithm().set(WHOLE)
    plain = find("ttrl").algorithm().set(WHOLE)
    ours = finals(method, LEANING, steps, run.seeds)
    spent = float(np.mean([generated(c) for c in ours]))
    one = generated(finals(plain, LEANING, 2, run.seeds[:1])[0]) / LEANING.group
    sizes = max(2, round(spent / one / 0.6)), max(2, round(spent / one))
    run.note(f"separate rollouts per prompt: {sizes[0]} (ours are 60 % of their tokens), {sizes[1]} (equal tokens).")
    base, equal = (finals(plain, LEANING.replace(group=size), steps, run.seeds) for size in sizes)
    trees = finals(method.set({"credit.shape": []}), LEANING, steps, run.seeds)
    return compare(
        [c.area for c in base], [c.area for c in ours], "mean exact accuracy over training", run, least=0.02,
        controls={"equal tokens": [c.area for c in equal], "trees alone": [c.area for c in trees]},
        premise=learning(base, "area"),
    )  # fmt: skip


@claim("echo-ttrl", base="ttrl", published="+0.63 to +12.36 % over test-time baselines (7B and 8B) at a limited rollout budget",
       seconds=40, seeds=6, stand_in="an enumerable policy that starts at a third right, eight prompts")  # fmt: skip
def echo_ttrl(run: ClaimRun) -> Outcome:
    """Gated trees, pruning, hybrid shaping (0.2, bounded) and the tail clip against plain votes with the same number of rollouts:
    mean exact accuracy over 60 steps of four updates. Answers are of three letters: rollouts may fork from the first on, at a rise
    above 0 and among the more uncertain half of their decisions."""
    gates = {"generate.uncertain": 0.5, "generate.calm": 0.25, "generate.rise": 0.0, "generate.depth": 0}
    method = find("echo-ttrl").algorithm().set(WHOLE | gates | {"generate.trees": 8, "generate.look": 1})
    method = method.set({"update.minibatches_per_epoch": 1})  # the bed's four
    bed = LEANING.replace(set={"update.minibatches_per_epoch": 4})
    steps = run.steps(60)
    ours = finals(method, bed, steps, run.seeds)
    leaves = float(np.mean([c.metric("tokens/generated").mean() for c in ours]))
    plain = find("ttrl").algorithm().set(WHOLE)
    one = float(finals(plain, bed, 2, run.seeds[:1])[0].metric("tokens/generated").mean()) / bed.group
    group = max(2, round(leaves / one))
    run.note(f"rollouts per prompt of the base for the same tokens: {group}.")
    base = finals(plain, bed.replace(group=group), steps, run.seeds)
    pruned = np.mean([c.metric("generate/pruned_share").mean() for c in ours])
    run.note(f"pruned: {pruned:.2f} of the leaves.")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact accuracy over training", run)


class Digits(EnumerablePolicy):
    """An enumerable policy that writes numbers: token v stands for v - 1."""

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(str(t - 1) for t in np.asarray(tokens).tolist() if t > 0)


@claim("urpa", base="the same without the confidence", published="100 to 200 unlabelled target videos approach or beat all of them",
       seconds=30, seeds=10, stand_in="intervals on a grid of ten, a policy trained on a shifted source")  # fmt: skip
def urpa(run: ClaimRun) -> Outcome:
    """Interval answers after a shift of domain, no labels: exact mean overlap with the truth on clean prompts after 40 steps, with the
    confidence as a weight (gamma 2) against none (gamma 0). Half of the prompts are contradictory (two equally likely answers); the
    prompts share no parameters. Control: the policy before. An effect below 0.02 does not matter."""
    steps, method = run.steps(40), find("urpa").algorithm().set({"filter.signals.0.length": 9.0})
    base, ours = (
        [_adapt(method.set({"filter.signals.0.gamma": gamma}), steps, seed) for seed in run.seeds]
        for gamma in (0.0, 2.0)
    )
    all_of = [np.mean([after for _, after, _, _ in side]) for side in (base, ours)]
    run.note(f"overlap on all prompts: {all_of[0]:.3f} (gamma 0), {all_of[1]:.3f} (gamma 2).")
    before, clean = [first for *_, first in base], [[r[2] for r in side] for side in (base, ours)]
    return compare(
        clean[0], clean[1], "exact mean overlap with the truth on clean prompts", run, least=0.02,
        controls={"before": before}, premise=learns(before, clean[0], 0.95),
    )  # fmt: skip


def _adapt(method: Algorithm, steps: int, seed: int) -> tuple[float, float, float, float]:
    """Exact mean overlap before and after, and on the clean prompts after and before."""
    from anypo.filter.consensus import overlap

    rng = np.random.default_rng(seed)
    graph, prompts = tree(11, 2), 8
    truth = [(int(a), int(a + rng.integers(2, 4))) for a in rng.integers(0, 6, prompts)]
    task = rule_task(graph, prompts, {"correct": lambda p, text: 0.0}, lambda p: "")
    policy = Digits(graph, prompts, spread=0.0)
    logp = torch.full((prompts, graph.states, 11), -6.0, dtype=torch.float64)
    for p, (a, b) in enumerate(truth):
        for place, value in ((0, a), (1, b)):
            states = [0] if place == 0 else [int(s) for s in graph.child[0] if s >= 0]
            for state in states:
                for token in range(1, 11):
                    error = abs(token - 1 - value - (place == 1) * 0.5)
                    logp[p, state, token] = -0.6 * error**2
                    if p % 2:  # contradictory evidence: a second place, equally likely
                        other = abs(token - 1 - (value + 4))
                        logp[p, state, token] = np.logaddexp(-0.6 * error**2, -0.6 * other**2)
    with torch.no_grad():
        policy.weight.copy_(logp.reshape(policy.weight.shape))
    world = World(task, policy, EnumerableSampler(policy, seed=seed))
    sizes = {"control.prompts": prompts, "control.samples": 8, "generate.max_new": 2, "update.optimiser.lr": 0.05}
    trainer = Trainer(method.set(sizes), world, seed, steps)

    def score() -> np.ndarray:
        table = policy.log_table().detach().exp()
        out = np.zeros(prompts)
        for p, span in enumerate(truth):
            for s in range(1, 11):
                for e in range(s, 11):
                    chance = float(table[p, 0, s] * table[p, int(graph.child[0, s]), e])
                    out[p] += chance * overlap((s - 1, e - 1), span)
        return out

    before = score()
    for _ in range(steps):
        trainer.step()
    after = score()
    return float(before.mean()), float(after.mean()), float(after[::2].mean()), float(before[::2].mean())
