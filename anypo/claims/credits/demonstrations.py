"""Claims of `anypo.systems.credits.demonstrations`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails, learns
from anypo.claims.beds.exact import Testbed, finals
from anypo.claims.beds.words import TextTask, run_on, warm
from anypo.claims.beds.worlds import rule_task
from anypo.data.batch import Batch
from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local
from anypo.exact import EnumerablePolicy, EnumerableSampler, tree, truth
from anypo.generate.base import World
from anypo.generate.guided.demonstrations import demonstration
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem


@claim("int", base="grpo", published="IMO-AnswerBench 11.7 to 25.6 % (4B); four benchmarks 28.3 (reinforcement alone) to 33.7",
       seconds=90, seeds=6, stand_in="an enumerable policy; one right answer of four letters, the solution as checker")  # fmt: skip
def intervention_training(run: ClaimRun) -> Outcome:
    """Success starts below 1 %: exact reward after 60 steps, 18 of them imitation of repaired failures, against GRPO for 60 steps.
    The failure: GRPO stays below one half. Control: imitation of whole worked solutions for the same 18 steps, which the paper
    reports to be worse. Notes: the share of groups without contrast. An effect below 0.05 does not matter."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.05)
    steps = run.steps(60)
    method = find("int").algorithm().set({"generate.delimiter": "", "generate.review": "comparison"})
    base, ours = finals("grpo", bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    whole = method.set({"generate": {"part": "anchored", "least": 999}})
    imitated = finals(whole, bed, steps, run.seeds)
    dead = [np.mean([1 - c.metric("credit/live_share").mean() for c in curves]) for curves in (base, ours)]
    run.note(f"decisions without a signal: {dead[0]:.2f} (grpo), {dead[1]:.2f} (int).")
    return compare(
        [c.final for c in base], [c.final for c in ours], "exact reward after training", run, least=0.05,
        controls={"imitation of whole solutions": [c.final for c in imitated]},
        premise=fails([c.final < 0.5 for c in base], "grpo stays below one half"),
    )  # fmt: skip


@claim("otr", base="sft", published="better than supervised training on math, code and reasoning; forgets less",
       seconds=60, seeds=6, stand_in="an enumerable policy, shared features; two of eight solutions corrupted")  # fmt: skip
def otr(run: ClaimRun) -> Outcome:
    """A policy that solves eight prompts is tuned on eight others, two of whose solutions are corrupted, until each method fits
    the clean solutions equally well (mean probability 0.8): exact accuracy kept on the first eight. The base sees the solutions
    and nothing else. Control: imitation weighted by each token's probability, which is what one-token rollouts at temperature 1
    expect. Notes: probability put on the corrupted solutions. An effect below 0.02 does not matter."""
    steps = run.steps(400)
    base, ours, weighed = ([_tune(how, seed, steps) for seed in run.seeds] for how in ("sft", "otr", "weighted"))
    wrong, fit = ([float(np.mean([r[i] for r in side])) for side in (base, ours)] for i in (2, 3))
    run.note(f"log-probability of corrupted solutions: {wrong[0]:.2f} (sft), {wrong[1]:.2f} (otr).")
    run.note(f"probability of the clean ones at the end: {fit[0]:.2f} (sft), {fit[1]:.2f} (otr).")
    return compare(
        [b[1] for b in base], [o[1] for o in ours], "accuracy kept on the first task", run, least=0.02,
        controls={"probability-weighted imitation": [w[1] for w in weighed]},
        premise=fails([b[1] < b[0] - 0.05 for b in base], "imitation forgets at least 0.05 of the first task"),
    )  # fmt: skip


def _tune(method: str, seed: int, steps: int) -> tuple[float, float, float, float]:
    """Accuracy on the old prompts before and after, log-probability of corrupted and probability of clean solutions of the others."""
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
    algorithm = algorithm.set(
        sizes | {"generate.draws": 256} | ({"generate.temperature": 1.0} if method == "weighted" else {})
    )
    if method == "sft":
        algorithm = find("sft").algorithm().set({"replay.examples": 8, "update.optimiser.lr": 0.02})
    with torch.no_grad():
        before = float(truth.value(policy.log_table(), task.reward, graph)[old].mean())
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
    return before, float(values[old].mean()), float(wrong), float(fit)


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


@claim("refine", base="sft", published="multi-key retrieval +8.8 % over supervised mid-training (1.3B)",
       seconds=120, seeds=3, stand_in="a character model on texts of keys, values and repeated queries")  # fmt: skip
def refine(run: ClaimRun) -> Outcome:
    """Next-sequence rewards beside next-token training, from the same checkpoint for the same 40 steps: exact recall of values on
    unseen texts. Notes: loss per token of unseen texts."""
    pairs = run.each(lambda seed: _recall(seed, run.steps(40), run.steps(400)))
    loss = [np.mean([p[i][1] for p in pairs]) for i in (0, 1)]
    run.note(f"loss per token of unseen texts: {loss[0]:.3f} (next token only), {loss[1]:.3f} (with next sequences).")
    base = [p[0][0] for p in pairs]
    return compare(
        base, [p[1][0] for p in pairs], "exact recall", run, least=0.02,
        premise=learns([CHANCE] * len(base), base, 0.95, what="the base recalls more than chance (1/90) by 0.05, and below 0.95"),
    )  # fmt: skip


CHANCE = 1 / 90
"""Two digits, the first of them not 0."""


def _recall(seed: int, steps: int, warm_up: int) -> list[tuple[float, float]]:
    """Exact recall and loss per token, without and with next-sequence rewards."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        keys = rng.choice(list("abcdefgh"), 4, replace=False)
        values = {k: f"{rng.integers(10, 100)}" for k in keys}
        stored = "".join(f"{k}{values[k]} " for k in keys)
        return stored + "".join(f"?{k}{values[k]}" for k in rng.permutation(keys))

    problems = [Problem(i, ({"role": "user", "content": ""},), solution=text()) for i in range(1200)]
    task: Any = TextTask(tuple(problems), lambda p, said: 0.0)
    copy = warm([("", p.solution) for p in problems[:900]], warm_up, seed)
    method = (
        find("refine")
        .algorithm()
        .set({"control.prompts": 16, "generate.chunks": 6, "generate.length": 3, "generate.text": 64})
    )
    found = []
    for mixing in ({"part": "stages", "share": 1.0}, {"part": "sum", "coefficient": 5.0}):
        policy = copy()
        algorithm = method.set({"objective.mixing": mixing, "update.optimiser.lr": 1e-3})
        run_on(algorithm, task, policy, steps, seed)
        found.append(_recalled(policy, task, [task.heldout(i) for i in range(100)]))
    return found


def _recalled(policy: Any, task: Any, unseen: Sequence[Problem]) -> tuple[float, float]:
    """Share of queried values that greedy decoding recalls, and loss per token, on unseen texts."""
    prompt = policy.encode(({"role": "user", "content": ""},))
    requests: list[Request] = []
    wanted = []
    for line in (p.solution for p in unseen):
        for at in (i for i, c in enumerate(line) if c == "?"):
            said = np.asarray(policy.answer(line[: at + 2]))[:-1]
            requests.append(Request(np.concatenate([prompt, said]), Sampling(2, 0.0), (len(requests),)))
            wanted.append(line[at + 2 : at + 4])
    sampler = Local().sampler(policy)
    found = [policy.decode(c.tokens) for c in sampler.generate(requests)]
    world = World(task, policy, sampler)
    demos = [demonstration(p, policy.answer(p.solution), world) for p in unseen[:50]]
    loss = -policy.fill(Batch.of(demos, [0] * len(demos), 1), ["logp"], grad=False)["logp"].mean()
    return float(np.mean([f == w for f, w in zip(found, wanted)])), float(loss)
