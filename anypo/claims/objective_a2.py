"""Claims of the objective systems, on the enumerable policy: token heterogeneity, contrast, risk, entropy targets, experts, reference
soups, conflict tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.credit_worlds import RuleAnswer, RuleTask, final_policy, finals, rule_task
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.exact import EnumerablePolicy, StateGraph, truth
from anypo.systems import find
from anypo.tasks.base import Environment, Problem

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"


# -- hapo-token ------------------------------------------------------------------------------------------------------------------


@claim("hapo-token", base="dapo", published="above DAPO on five models from 1.5B to 14B; entropy stays higher", seconds=70,
       stand_in=TOY)  # fmt: skip
def hapo_token(run: ClaimRun) -> Outcome:
    """Every token treated by its entropy: exact entropy at the moment the exact reward first reaches 0.9, against DAPO, with 16
    updates per batch of rollouts. Notes: mean reward over training, and what is left without each of the parts."""
    bed = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 16})
    steps = run.steps(30)
    base, ours = finals("dapo", bed, steps, run.seeds), finals("hapo-token", bed, steps, run.seeds)
    run.note(
        f"mean exact reward over training: {_mean(c.area for c in base)} (dapo), {_mean(c.area for c in ours)} (hapo)."
    )
    for label, change in (("clip ranges by entropy", "alpha"), ("advantages by entropy", "beta")):
        less = find("hapo-token").algorithm().set({f"objective.trust.{change}": 0.0})
        without = finals(less, bed, steps, run.seeds[:4])
        run.note(f"entropy without {label} (4 seeds): {_mean(_entropy_at(c, 0.9) for c in without)}.")
    return compare(
        [_entropy_at(c, 0.9) for c in base], [_entropy_at(c, 0.9) for c in ours], "entropy at reward 0.9 (nats)", run
    )


def _entropy_at(curves: Curves, level: float) -> float:
    """Exact entropy when the exact reward first reaches `level`, interpolated between steps; nan where it never does."""
    above = np.flatnonzero(curves.value >= level)
    if not len(above):
        return float("nan")
    after = int(above[0])
    before = max(0, after - 1)
    rise = curves.value[after] - curves.value[before]
    share = (level - curves.value[before]) / rise if rise > 0 else 1.0
    return float(curves.entropy[before] + share * (curves.entropy[after] - curves.entropy[before]))


def _mean(values: Any) -> str:
    return f"{float(np.mean(list(values))):.3f}"


# -- copg ------------------------------------------------------------------------------------------------------------------------


@claim("copg", base="reinforce with the same penalty and no importance weights", seconds=60, stand_in=TOY,
       published="offline on TL;DR above DPO and IPO; on a bandit only CoPG finds the optimum from off-policy data")  # fmt: skip
def copg(run: ClaimRun) -> Outcome:
    """Learning from one fixed sampler (the initial, skewed policy; nothing is ever sampled anew) at equal KL penalty: the share
    of the analytically possible gain in E[R] - beta KL that is reached in 400 steps of 32 pairs, against REINFORCE with the
    penalty in the reward. Notes: seeds within 2 % of the optimum; RLOO with two samples, whose gradient is the same."""
    beta = 0.05
    bed = Testbed(horizon=3, reward="graded", spread=1.0, lag=1_000_000, batch=32, group=2, lr=0.05)
    penalty = {"credit.shaping": [{"part": "reward_kl", "coefficient": beta}], "update.reference": "frozen"}
    steps = run.steps(400)
    plain = find("reinforce").algorithm().set(penalty)
    base, ours = ([_gain(c, beta) for c in finals(method, bed, steps, run.seeds)] for method in (plain, "copg"))
    twin = [_gain(c, beta) for c in finals("rloo", bed, steps, run.seeds[:3])]
    run.note(
        f"within 2 % of the optimum: {sum(g >= 0.98 for g in ours)} of {len(ours)} seeds (smallest share {min(ours):.4f})."
    )
    run.note(f"RLOO on the same pairs (3 seeds): {_mean(twin)}, CoPG {_mean(ours[:3])}: the same gradient.")
    return compare(base, ours, "share of the possible gain in E[R] - beta KL", run)


def _gain(curves: Curves, beta: float) -> float:
    """(J - J0) / (J* - J0), mean over prompts of J = E[R] - beta KL(pi || pi_0) and of its optimum beta log E_0 exp(R / beta)."""
    world = curves.trainer.world
    policy, task = final_policy(curves), world.task
    start = curves.trainer.weights.reference
    graph = policy.graph
    with torch.no_grad():
        here, there = policy.log_table(), start.log_table()
        reward = truth.sequence_reward(task.reward, graph)  # type: ignore[attr-defined]
        reached = truth.value(here, task.reward, graph) - beta * truth.kl(here, there, graph)  # type: ignore[attr-defined]
        best = beta * torch.logsumexp(truth.sequence_logp(there, graph) + reward / beta, 1)
        first = truth.value(there, task.reward, graph)  # type: ignore[attr-defined]
    return float((reached - first).mean() / (best - first).mean())


# -- riskpo ----------------------------------------------------------------------------------------------------------------------


@claim("riskpo", base="the same bundles with their mean as objective", seconds=60,
       stand_in="an enumerable policy (10 prompts of mixed difficulty)",
       published="46.65 on hard maths, DAPO 43.87, GRPO 40.41 (1.5B); risk-seeking weights collapse the entropy")  # fmt: skip
def riskpo(run: ClaimRun) -> Outcome:
    """The lower tail instead of the mean: exact entropy lost per unit of exact reward gained on the way to reward 0.8, against
    risk-neutral bundles (no extra weight, no quantile cut off). Notes: the same for the upper tail, which the paper says loses
    more, and for GSPO, whose groups are not bundled."""
    bed = Testbed(prompts=10, batch=10, lr=0.05)
    steps = run.steps(200)
    method = find("riskpo").algorithm()
    variants = {
        "neutral": method.set({"credit.tail": 0.0, "credit.alpha": 1e-9, "credit.beta": 1 - 1e-9}),
        "lower": method,
        "upper": method.set({"credit.side": "upper"}),
        "gspo": find("gspo").algorithm(),
    }
    lost = {name: [_loss_per_gain(c, 0.8) for c in finals(a, bed, steps, run.seeds)] for name, a in variants.items()}
    run.note(f"upper tail: {_mean(lost['upper'])}; GSPO: {_mean(lost['gspo'])}.")
    above = sum(u > n for u, n in zip(lost["upper"], lost["neutral"]))
    run.note(f"the upper tail loses more than the mean in {above} of {len(run.seeds)} seeds.")
    return compare(lost["neutral"], lost["lower"], "entropy lost per unit of reward gained", run, larger=False)


def _loss_per_gain(curves: Curves, level: float) -> float:
    return (curves.entropy[0] - _entropy_at(curves, level)) / (level - curves.value[0])


# -- aepo-entropy ----------------------------------------------------------------------------------------------------------------


@claim("aepo-entropy", base="15 % of the entropy that GRPO loses", seconds=70, seeds=6, stand_in=TOY,
       published="holds any level of entropy where GRPO's collapses; accuracy rises, then falls with it")  # fmt: skip
def aepo_entropy(run: ClaimRun) -> Outcome:
    """Three levels, at a quarter, half and three quarters of the way from GRPO's last entropy to its first: the largest distance of
    the mean entropy of the second half of 200 steps from its level, which should stay below 15 % of what GRPO loses. Notes:
    entropy and reward at each level, and entropies with hotter targets."""
    bed = Testbed(lr=0.05)
    steps = run.steps(200)
    allowed, found, notes, hotter = [], [], [], []
    for seed in run.seeds:
        plain = train("grpo", bed, steps, seed)
        high, low = plain.entropy[0], _late(plain)
        levels = [low + share * (high - low) for share in (0.25, 0.5, 0.75)]
        held = [train(_at_level(level), bed, steps, seed) for level in levels]
        off = [abs(_late(c) - level) for c, level in zip(held, levels)]
        allowed.append(0.15 * (high - low))
        found.append(max(off))
        hotter.append(
            [_late(train(_at_level(level).set({"generate.hot": 3.0}), bed, steps, seed)) - low for level in levels]
        )
        notes.append(
            [[_late(c) - low for c in held], [level - low for level in levels], [c.final for c in (plain, *held)]]
        )
    table = np.array([[*reached, *wanted, *reward] for reached, wanted, reward in notes]).mean(0)
    run.note(f"entropy above GRPO's, wanted: {_list(table[3:6])}, reached: {_list(table[:3])}.")
    run.note(f"the same with targets drawn at temperature 3: {_list(np.mean(hotter, 0))}.")
    run.note(f"exact reward of GRPO and at the three levels: {_list(table[6:])}.")
    return compare(allowed, found, "largest distance from the level (nats)", run, larger=False)


def _at_level(level: float) -> Algorithm:
    return find("aepo-entropy").algorithm().set({"generate.entropy": level})


def _late(curves: Curves) -> float:
    """Mean exact entropy over the second half of a run."""
    return float(curves.entropy[len(curves.entropy) // 2 :].mean())


def _list(values: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


# -- hpt -------------------------------------------------------------------------------------------------------------------------


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
        run.note(f"{label}: easy {easy:.3f}, hard {hard:.3f}, entropy {_mean(c.entropy[-1] for c in side)}.")
    trend = [spearmanr(np.arange(steps), c.metric("filter/expert_share")).statistic for c in ours]
    run.note(f"rank correlation of the share of imitation with the step: {float(np.mean(np.nan_to_num(trend))):.2f}.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _constant(share: float) -> Algorithm:
    """Every prompt keeps its rollouts and its solution, (1 - share) GRPO + share SFT."""
    mixing = {"part": "annealed", "peak": share, "valley": share, "warmup": 0, "decay": 0}
    return find("hpt").algorithm().set({"filter.survival": [], "objective.mixing": mixing})


# -- salsa -----------------------------------------------------------------------------------------------------------------------


@claim("salsa", base="ppo", seconds=90, seeds=8, stand_in="log-linear enumerable policies: a good one plus noise, twice",
       published="above PPO with the SFT reference on MT-Bench, Arena-Hard and UltraFeedback (2B to 7B models)")  # fmt: skip
def salsa(run: ClaimRun) -> Outcome:
    """The policy and a second model are one half-trained policy plus independent noise. Exact reward after 60 steps of PPO with the
    average of both as reference, at the KL that PPO has from its own reference at the same penalty (interpolated between four
    penalties). Notes: reward of the parents and of their average; reward at equal penalty; one third model as reference."""
    bed = Testbed(kind="linear", lr=0.02)
    steps = run.steps(60)
    beta, betas = 0.4, (0.2, 0.4, 0.8, 1.6)
    base, ours, equal, third, parents = [], [], [], [], []
    for seed in run.seeds:
        models = [_noisy(bed, seed, k) for k in range(3)]
        own = bed.replace(prepare=_become(models[0]))
        plain = train(_penalised("ppo", beta), own, steps, seed)
        spent = _distance(plain)
        front = [_souped(own, models[1], 0.5, b, steps, seed) for b in betas]
        order = np.argsort([_distance(c) for c in front])
        ours.append(float(np.interp(spent, [_distance(front[i]) for i in order], [front[i].final for i in order])))
        base.append(plain.final)
        equal.append(front[1].final)
        third.append(_souped(own, models[2], 0.0, beta, steps, seed).final)
        parents.append([*(_reward(bed, w) for w in models[:2]), _reward(bed, (models[0] + models[1]) / 2)])
    first, second, soup = np.mean(parents, 0)
    run.note(f"exact reward of the parents {first:.3f} and {second:.3f}, of their average {soup:.3f}.")
    run.note(f"reward at equal penalty: {_mean(equal)}; with a third model alone as reference: {_mean(third)}.")
    return compare(base, ours, "exact reward at equal KL from the reference", run)


def _noisy(bed: Testbed, seed: int, which: int, steps: int = 40, noise: float = 0.5) -> Tensor:
    """Weights of a policy half-trained on the exact gradient (the same for every `which`), plus Gaussian noise."""
    world = bed.world(seed)
    policy = world.policy
    for _ in range(steps):
        slope = truth.policy_gradient(policy, world.task.reward, policy.graph)  # type: ignore[attr-defined]
        with torch.no_grad():
            policy.weight += 0.1 * (slope / slope.norm()).reshape(policy.weight.shape)
    generator = torch.Generator().manual_seed(1000 * which + seed)
    return policy.weight.detach() + noise * torch.randn(policy.weight.shape, generator=generator, dtype=torch.float64)


def _become(weight: Tensor) -> Callable[[EnumerablePolicy, int], None]:
    def prepare(policy: EnumerablePolicy, seed: int) -> None:
        with torch.no_grad():
            policy.weight.copy_(weight)

    return prepare


def _souped(bed: Testbed, other: Tensor, own: float, beta: float, steps: int, seed: int) -> Curves:
    """SALSA with a second model of these weights, which counts 1 - `own` in the average."""
    second = bed.replace(prepare=_become(other)).world(seed).policy
    changes = {"update.reference.models": ["second"], "update.reference.own": own}
    with patch("anypo.policies.load", lambda name: second):
        return train(_penalised("salsa", beta).set(changes), bed, steps, seed)


def _penalised(system: str, beta: float) -> Algorithm:
    return find(system).algorithm().set({"credit.shaping.0.coefficient": beta})


def _distance(curves: Curves) -> float:
    """Exact KL of the final policy from its reference, nats per answer."""
    policy, reference = final_policy(curves), curves.trainer.weights.reference
    with torch.no_grad():
        return float(truth.kl(policy.log_table(), reference.log_table(), policy.graph).mean())


def _reward(bed: Testbed, weight: Tensor) -> float:
    world = bed.replace(prepare=_become(weight)).world(0)
    with torch.no_grad():
        return float(truth.value(world.policy.log_table(), world.task.reward, world.policy.graph).mean())  # type: ignore[attr-defined]


# -- gtpo-conflict ---------------------------------------------------------------------------------------------------------------


def _formatted(prompt: int, text: str) -> float:
    """Right answers are "ab" and one letter of three that depends on the prompt."""
    return float(text == "ab" + "abc"[prompt % 3])


@dataclass(eq=False)
class _Coins(RuleTask):
    """Answers that begin with "ab" are right one time in five, whatever follows: nothing but the prefix can be learned."""

    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    def environment(self, problem: Problem) -> Environment:
        right = float(self.generator.random() < 0.2)
        coin = lambda prompt, text: right * text.startswith("ab")
        return RuleAnswer(replace(self, rules={"correct": coin}), problem)


def _coins(seed: int) -> Callable[[StateGraph], Any]:
    def task(graph: StateGraph) -> Any:
        fair = rule_task(graph, 4, {"correct": lambda p, text: 0.2 * text.startswith("ab")}, lambda p: "ab")
        return _Coins(**vars(fair), generator=np.random.default_rng(seed))

    return task


def _knows_the_format(policy: EnumerablePolicy, seed: int) -> None:
    """Logits that write "ab", any token, the end: the prefix has nine chances in ten, the answer after it a quarter."""
    graph = policy.graph
    first = int(graph.child[0, 1])
    third = [int(state) for state in graph.child[int(graph.child[first, 2])] if state >= 0]
    with torch.no_grad():
        table = policy.weight.view(policy.prompts, graph.states, graph.vocabulary)
        table[:, 0, 1] += 4.0
        table[:, first, 2] += 4.0
        table[:, third, 0] += 4.0


@claim("gtpo-conflict", published="no late collapse, format kept; above GRPO on GSM8K, MATH and AIME 2024 (3B, 8B)",
       seconds=70, seeds=20, stand_in="a tabular policy whose right and wrong answers share a two-letter prefix")  # fmt: skip
def gtpo_conflict(run: ClaimRun) -> Outcome:
    """A prefix that every right answer must have and nearly every wrong one has too, while four answers in five are wrong throughout
    (their verdicts are drawn at random): its exact probability after 200 steps against GRPO. Notes: in how many seeds it
    falls below where it began; and the same where the verdict can be learned."""
    bed = Testbed(spread=0.2, lr=0.03, prepare=_knows_the_format)
    steps = run.steps(200)
    start = [_prefix(bed.world(seed).policy) for seed in run.seeds]
    ends = [
        [_prefix(final_policy(train(name, bed.replace(task=_coins(seed)), steps, seed))) for seed in run.seeds]
        for name in ("grpo", "gtpo-conflict")
    ]
    falls = [sum(e < s for e, s in zip(side, start)) for side in ends]
    run.note(
        f"the prefix begins at {_mean(start)}; it ends lower in {falls[0]} (grpo) and {falls[1]} (gtpo) of {len(start)} seeds."
    )
    learnable = bed.replace(
        task=lambda graph: rule_task(graph, 4, {"correct": _formatted}, lambda p: "ab" + "abc"[p % 3])
    )
    for name in ("grpo", "gtpo-conflict"):
        some = finals(name, learnable, steps, run.seeds[:4])
        run.note(
            f"verdicts that can be learned (4 seeds), {name}: reward {_mean(c.final for c in some)}, "
            f"prefix {_mean(_prefix(final_policy(c)) for c in some)}."
        )
    return compare(ends[0], ends[1], "probability of the shared prefix", run)


def _prefix(policy: Any) -> float:
    """Exact probability of an answer that begins with "ab", mean over prompts."""
    with torch.no_grad():
        table = policy.log_table()
        return float((table[:, 0, 1] + table[:, int(policy.graph.child[0, 1]), 2]).exp().mean())
