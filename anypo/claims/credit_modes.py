"""Claims about demonstrations, answer modes, masks, flaws and label vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.credit_worlds import expected, final_policy, finals, rule_task, tabulate
from anypo.claims.testbeds import Curves, Testbed
from anypo.exact import EnumerablePolicy, EnumerableSampler, StateGraph, tree, truth
from anypo.generate.base import World
from anypo.generate.groups.labels import f1, label_world
from anypo.policies.language.labels import LabelPolicy
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem


@claim("fapo", published="better outcomes and fewer flawed positives than plain verification at equal tokens", seconds=60, seeds=6,
       stand_in="an enumerable policy: solve needs three rare steps, a guess is right but flawed")  # fmt: skip
def fapo(run: ClaimRun) -> Outcome:
    """Solving starts at about 2 %, a flawed guess at about 20 %: exact share of flawed answers among right ones after 150 steps
    against GRPO on the outcome. Notes: accuracy and clean solutions of both; a detector that errs in a fifth of the cases."""

    def task(graph: StateGraph, errs: float = 0.0) -> Any:
        guessed = lambda text: text.startswith("d")
        coin = np.random.default_rng(0)
        rules = {
            "correct": lambda p, text: float(text.startswith("abc") or guessed(text)),
            "flawed": lambda p, text: float(guessed(text) != (coin.random() < errs)),
            "truly_flawed": lambda p, text: float(guessed(text)),
        }
        return rule_task(graph, 4, rules, lambda p: "abc", correct=1.0)

    bed = Testbed(vocabulary=6, horizon=3, prompts=4, lr=0.05, spread=0.2, task=task)
    steps = run.steps(150)
    method = find("fapo").algorithm().set({"filter.signals": []})
    base = finals(find("grpo").algorithm().set({"objective": method.objective}), bed, steps, run.seeds)
    ours = finals(method, bed, steps, run.seeds)
    shares = [[_flawed_share(c) for c in curves] for curves in (base, ours)]
    level = [np.mean([c.final for c in curves]) for curves in (base, ours)]
    run.note(f"accuracy: {level[0]:.3f} (grpo), {level[1]:.3f} (fapo).")
    noisy = finals(method, bed.replace(task=lambda graph: task(graph, 0.2)), steps, run.seeds)
    run.note(
        f"with a detector that errs on a fifth of the answers: {np.mean([_flawed_share(c) for c in noisy]):.3f} flawed."
    )
    return compare(shares[0], shares[1], "share of right answers that are flawed", run, larger=False)


def _flawed_share(curves: Curves) -> float:
    policy, task = final_policy(curves), curves.trainer.world.task
    return expected(policy, task.table("truly_flawed")) / max(expected(policy, task.reward), 1e-9)  # type: ignore[attr-defined]


@claim("int", base="grpo", published="IMO-AnswerBench 11.7 to 25.6 % (4B); four benchmarks 28.3 (reinforcement alone) to 33.7",
       seconds=60, seeds=6, stand_in="an enumerable policy; one right answer of four letters, the solution as checker")  # fmt: skip
def intervention_training(run: ClaimRun) -> Outcome:
    """Success starts below 1 %: exact reward after 100 steps, 30 of them imitation of repaired failures, against GRPO for 100
    steps. Notes: imitation of whole solutions for the same 30 steps, and the share of groups without contrast."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.05)
    steps = run.steps(100)
    method = find("int").algorithm().set({"generate.delimiter": "", "generate.continuations": 32})
    base, ours = finals("grpo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    whole = (
        find("dagrpo")
        .algorithm()
        .set({"generate.least": 999, "credit": find("int").algorithm().credit, "objective": method.objective})
    )
    imitated = finals(whole, bed, steps, run.seeds)
    run.note(f"imitating whole solutions instead: {np.mean([c.final for c in imitated]):.3f}.")
    dead = [np.mean([1 - c.metric("credit/live_share").mean() for c in curves]) for curves in (base, ours)]
    run.note(f"decisions without a signal: {dead[0]:.2f} (grpo), {dead[1]:.2f} (int).")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("otr", base="sft", published="better than supervised training on math, code and reasoning; forgets less",
       seconds=60, seeds=6, stand_in="an enumerable policy, shared features; two of eight solutions corrupted")  # fmt: skip
def otr(run: ClaimRun) -> Outcome:
    """A policy that solves eight prompts is tuned on eight others, two of whose solutions are corrupted, until each method fits the
    clean solutions equally well (mean probability 0.8): exact accuracy kept on the first eight. Notes: probability put on the
    corrupted solutions."""
    pairs = run.each(lambda seed: (_tune("sft", seed, run.steps(400)), _tune("otr", seed, run.steps(400))))
    base, ours = ([p[side] for p in pairs] for side in (0, 1))
    wrong, fit = ([float(np.mean([r[i] for r in side])) for side in (base, ours)] for i in (1, 2))
    run.note(f"log-probability of corrupted solutions: {wrong[0]:.2f} (sft), {wrong[1]:.2f} (otr).")
    run.note(f"probability of the clean ones at the end: {fit[0]:.2f} (sft), {fit[1]:.2f} (otr).")
    return compare([b[0] for b in base], [o[0] for o in ours], "accuracy kept on the first task", run)


def _tune(method: str, seed: int, steps: int) -> tuple[float, float, float]:
    """Accuracy on the old prompts, log-probability of corrupted and probability of clean solutions of the new ones."""
    rng = np.random.default_rng(seed)
    graph, prompts, length = tree(5, 3), 16, 3
    words = ["".join("abcd"[i] for i in rng.integers(0, 4, length)) for _ in range(prompts)]
    taught = list(words)
    for p in (8, 9):
        taught[p] = "".join("abcd"[("abcd".index(c) + 1) % 4] for c in words[p])
    task = rule_task(graph, prompts, {"correct": lambda p, text: float(text == words[p])}, lambda p: taught[p])
    policy = EnumerablePolicy(graph, prompts, "linear", spread=0.1, seed=seed)
    old, new = list(range(8)), list(range(8, 16))
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(150):  # the policy that is to be kept
        loss = -torch.stack([_sentence(policy, p, words[p]) for p in old]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    algorithm = find("otr").algorithm()
    sizes = {"control.prompts": 8, "generate.max_new": length, "update.optimiser.lr": 0.02}
    algorithm = algorithm.set(sizes | {"generate.draws": 256})
    if method == "sft":
        algorithm = algorithm.set(
            {"generate": {"part": "anchored", "least": 999, "max_new": length}, "objective": "supervised"}
        )
        algorithm = algorithm.set({"control.samples": 1})
    world = World(_Part(task, new), policy, EnumerableSampler(policy, seed=seed))  # type: ignore[arg-type]
    trainer = Trainer(algorithm, world, seed, steps)
    clean = [p for p in new if taught[p] == words[p]]
    for _ in range(steps):
        trainer.step()
        with torch.no_grad():
            if float(torch.stack([_sentence(policy, p, words[p]) for p in clean]).exp().mean()) >= 0.8:
                break
    with torch.no_grad():
        values = truth.value(policy.log_table(), task.reward, graph)
        wrong = torch.stack([_sentence(policy, p, taught[p]) for p in (8, 9)]).mean()
        fit = torch.stack([_sentence(policy, p, words[p]) for p in clean]).exp().mean()
    return float(values[old].mean()), float(wrong), float(fit)


def _sentence(policy: EnumerablePolicy, prompt: int, word: str) -> torch.Tensor:
    """log probability of an answer."""
    table, state, total = policy.log_table(), 0, torch.zeros((), dtype=torch.float64)
    for token in policy.answer(word).tolist():
        total = total + table[prompt, state, token]
        state = int(policy.graph.child[state, token])
    return total


@dataclass
class _Part:
    """Some of the problems of a task."""

    task: Any
    chosen: list[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def train(self, index: int) -> Problem:
        return self.task.train(self.chosen[index])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


@claim("a2fm-apo", published="cost of a right answer 45 % below always reasoning and 34 % below always using tools (32B)", seconds=60,
       seeds=6, stand_in="an enumerable policy with three modes of cost 1, 5 and 15")  # fmt: skip
def a2fm_apo(run: ClaimRun) -> Outcome:
    """A third of the prompts can be answered at once, a third needs the second mode, a third the third; a dearer mode also solves
    what a cheaper one does. Cost per right answer of free choices after 120 steps, against GRPO with free choices only at
    the same 12 rollouts. Notes: accuracy, and the same rewards without forced modes."""

    def task(graph: StateGraph) -> Any:
        letters = ["d", "a", "b", "d", "a", "b"]

        def right(p: int, text: str) -> float:
            able = len(text) >= 2 and text[0] in "abc" and "abc".index(text[0]) >= p % 3
            return float(able and text[1] == letters[p])

        return rule_task(graph, 6, {"correct": right}, lambda p: "abc"[p % 3] + letters[p])

    bed = Testbed(vocabulary=5, horizon=2, prompts=6, batch=6, group=12, lr=0.05, task=task)
    tags = {"generate.tags": ["a", "b", "c"]}
    method = find("a2fm-apo").algorithm().set(tags)
    steps = run.steps(120)
    base = finals("grpo", bed, steps, run.seeds)
    ours = finals(method, bed, steps, run.seeds)
    unforced = finals(method.set({"generate.forced": 0, "generate.free": 12}), bed, steps, run.seeds)
    run.note(f"accuracy: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (apo).")
    free = np.mean([_cost(c) for c in unforced]), np.mean([c.final for c in unforced])
    run.note(f"without forced modes: cost {free[0]:.2f}, accuracy {free[1]:.3f}.")
    return compare(
        [_cost(c) for c in base], [_cost(c) for c in ours], "expected cost per right answer", run, larger=False
    )


def _cost(curves: Curves) -> float:
    policy = final_policy(curves)
    price = {"a": 1.0, "b": 5.0, "c": 15.0}
    table = tabulate(policy.graph, policy.prompts, lambda p, text: price.get(text[:1], 1.0))
    return expected(policy, table) / max(expected(policy, curves.trainer.world.task.reward), 1e-3)  # type: ignore[attr-defined]


@claim("nlpo", base="ppo", published="better and steadier than PPO over six tasks; closer to the initial model", seconds=60,
       seeds=6, stand_in="an enumerable policy of seven tokens with a peaked initial distribution")  # fmt: skip
def nlpo(run: ClaimRun) -> Outcome:
    """PPO inside a lagging nucleus against the same PPO without it: exact KL from the initial policy at the step where each first
    reaches an exact reward of 0.6 (at the end where it does not). Notes: rewards at the end."""
    bed = Testbed(vocabulary=7, horizon=3, prompts=4, lr=0.05, spread=1.5, set={"control.samples": 16})
    method = find("nlpo").algorithm()
    plain = method.set({"generate": "independent"})
    steps = run.steps(60)
    base, ours = finals(plain, bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    run.note(
        f"reward at the end: {np.mean([c.final for c in base]):.3f} (ppo), {np.mean([c.final for c in ours]):.3f} (nlpo)."
    )
    run.note(
        f"spread over seeds: {np.std([c.final for c in base]):.3f} (ppo), {np.std([c.final for c in ours]):.3f} (nlpo)."
    )
    run.note(f"tokens in the mask: {np.mean([c.metric('generate/mask_size').mean() for c in ours]):.1f} of 7.")
    return compare(
        [_kl_at(c, 0.6) for c in base],
        [_kl_at(c, 0.6) for c in ours],
        "KL from the start at reward 0.6",
        run,
        larger=False,
    )


def _kl_at(curves: Curves, level: float) -> float:
    reached = np.flatnonzero(curves.value >= level)
    return float(curves.kl[reached[0]] if len(reached) else curves.kl[-1])


@claim("gliclass-ppo", base="initial", published="adaptation by PPO from sparse data or feedback, one pass for all labels", seconds=60,
       seeds=5, stand_in="a one-layer encoder on synthetic texts of six labels, F1 as only feedback")  # fmt: skip
def gliclass_ppo(run: ClaimRun) -> Outcome:
    """A weak supervised start, then F1 as the only feedback: mean F1 of thresholded labels on unseen texts after 100 steps against
    before. Notes: thresholded actions in training, first two seeds."""
    pairs = run.each(lambda seed: _classify(seed, run.steps(100)))
    threshold = [_classify(seed, run.steps(100), actions="threshold")[1] for seed in run.seeds[:2]]
    run.note(f"with thresholded actions instead of drawn ones: {np.mean(threshold):.3f}.")
    return compare([b for b, _ in pairs], [a for _, a in pairs], "mean F1 on unseen texts", run)


def _classify(seed: int, steps: int, actions: str = "bernoulli") -> tuple[float, float]:
    """Mean F1 on unseen texts before and after reinforcement."""
    rng = np.random.default_rng(seed)
    labels, words, length = 6, 24, 8
    meaning = rng.integers(0, labels, words)

    def example() -> Problem:
        text = rng.integers(0, words, length)
        order = rng.permutation(labels)
        counts = np.bincount(meaning[text], minlength=labels)
        targets = (counts >= 2).astype(int)
        tokens = np.concatenate([[labels], order, labels + text])
        return Problem(int(rng.integers(1 << 40)), (), metadata={"input": tokens, "targets": targets[order].tolist()})

    train, unseen = [example() for _ in range(512)], [example() for _ in range(256)]
    policy = LabelPolicy(labels + words, width=32, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(40):  # the weak supervised start
        chosen = [train[(16 * step + i) % 64] for i in range(16)]
        logits = torch.cat(policy.label_logits([p.metadata["input"] for p in chosen]))
        targets = torch.tensor([t for p in chosen for t in p.metadata["targets"]], dtype=torch.float32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    before = _f1(policy, unseen)
    algorithm = find("gliclass-ppo").algorithm()
    algorithm = algorithm.set(
        {"control.prompts": 64, "control.samples": 4, "update.optimiser.lr": 1e-3, "generate.actions": actions}
    )
    world = label_world([p.metadata["input"] for p in train], [p.metadata["targets"] for p in train], policy)
    trainer = Trainer(algorithm, world, seed, steps)
    for _ in range(steps):
        trainer.step()
    return before, _f1(policy, unseen)


def _f1(policy: LabelPolicy, problems: list[Problem]) -> float:
    with torch.no_grad():
        logits = policy.label_logits([p.metadata["input"] for p in problems])
    return float(np.mean([f1(z.numpy() > 0, np.array(p.metadata["targets"]) == 1) for z, p in zip(logits, problems)]))
