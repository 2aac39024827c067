"""Claims about what is remembered of every prompt, and about budgets that follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.credit_worlds import expected, expected_length, final_policy, finals, rule_task
from anypo.claims.testbeds import Curves, Testbed
from anypo.credit.centres.generalist import WIDTH, ContextValue, value_loss
from anypo.exact import StateGraph
from anypo.systems import find

TOY = "an enumerable policy (16 prompts, 4 tokens) for the language model"


@claim("spo-single-stream", published="maj@32 +3.4 points over GRPO on hard math (8B); no degenerate groups", seconds=60,
       seeds=10, stand_in=TOY)  # fmt: skip
def spo_single_stream(run: ClaimRun) -> Outcome:
    """One rollout for each of 64 prompts drawn per step against GRPO's 8 prompts x 8, the same 64 rollouts: mean exact reward over
    80 steps. No offline initialisation of the beliefs (first visits have one rollout too)."""
    bed = Testbed(prompts=16, lr=0.03)
    steps = run.steps(80)
    base = finals("grpo", bed.replace(batch=8, group=8), steps, run.seeds)
    single = find("spo-single-stream").algorithm().set({"control.first_samples": 1})
    ours = finals(single, bed.replace(batch=64, group=1), steps, run.seeds)
    dead = [np.mean([1 - c.metric("credit/live_share").mean() for c in curves]) for curves in (base, ours)]
    run.note(f"share of decisions without a signal: {dead[0]:.3f} (grpo), {dead[1]:.3f} (spo).")
    run.note(
        f"tracking error (rms, of rewards): {np.mean([c.metric('credit/tracker_error')[-10:].mean() for c in ours]):.2f}."
    )
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("mssr", base="spo-single-stream", published="GRPO's accuracy in half the steps; unshaped single rollouts collapse",
       seconds=60, seeds=10, stand_in=TOY)  # fmt: skip
def mssr(run: ClaimRun) -> Outcome:
    """Entropy-shaped advantages against the same single-rollout training without them, several optimiser steps per batch at a
    large learning rate: exact reward after 120 steps. Notes: entropy, and GRPO at the same number of rollouts."""
    bed = Testbed(prompts=16, batch=64, group=1, lr=0.1, set={"update.minibatches_per_epoch": 4})
    steps = run.steps(120)
    method = find("mssr").algorithm()
    ours = finals(method, bed, steps, run.seeds)
    base = finals(method.set({"credit.shape": []}), bed, steps, run.seeds)
    group = finals("grpo", bed.replace(batch=8, group=8), steps, run.seeds)
    entropy = [np.mean([c.entropy[-1] for c in curves]) for curves in (base, ours)]
    run.note(f"entropy at the end: {entropy[0]:.3f} (unshaped), {entropy[1]:.3f} (shaped).")
    run.note(f"GRPO: {np.mean([c.final for c in group]):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


@claim("hapo-history", published="33 to 59 % shorter responses with 2 to 5 % lower accuracy (1.5B models)", seconds=60, seeds=6,
       stand_in="an enumerable policy whose answers are decided by their first letters")  # fmt: skip
def hapo_history(run: ClaimRun) -> Outcome:
    """Letters after the deciding ones are wasted: exact expected length after 80 steps against GRPO. Notes: accuracy of both."""
    bed = Testbed(vocabulary=4, horizon=6, prompts=4, lr=0.05)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("hapo-history", bed, steps, run.seeds)
    run.note(f"accuracy: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (hapo).")
    lengths = [[expected_length(final_policy(c)) for c in curves] for curves in (base, ours)]
    run.note(f"length change: {np.mean(lengths[1]) / np.mean(lengths[0]) - 1:+.0%}.")
    return compare(lengths[0], lengths[1], "expected length after training", run, larger=False)


@claim("otc-po", published="tool calls down by up to 73 % at comparable accuracy; tool productivity up by up to 229 %", seconds=60,
       seeds=6, stand_in="an enumerable policy; letter c calls a tool, prompts need 0, 1 or 2 calls")  # fmt: skip
def otc_po(run: ClaimRun) -> Outcome:
    """Answers are right when they contain at least the calls that the prompt needs, further ones are harmless: exact expected
    calls after 100 steps against GRPO. Notes: accuracy of both and calls by kind of prompt."""

    def task(graph: StateGraph) -> Any:
        rules = {
            "correct": lambda p, text: float(text.count("c") >= p % 3 and text[-1:] != "c"),
            "tool_calls": lambda p, text: float(text.count("c")),
        }
        return rule_task(graph, 6, rules, lambda p: "c" * (p % 3) + "a", correct=1.0)

    bed = Testbed(vocabulary=4, horizon=5, batch=6, lr=0.05, task=task)
    steps = run.steps(100)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("otc-po", bed, steps, run.seeds)
    run.note(f"accuracy: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (otc).")
    calls = [[_calls(c) for c in curves] for curves in (base, ours)]
    return compare(calls[0], calls[1], "expected tool calls after training", run, larger=False)


def _calls(curves: Curves) -> float:
    return expected(final_policy(curves), curves.trainer.world.task.table("tool_calls"))  # type: ignore[attr-defined]


@claim("pipo", published="mean pass@1 +0.9 to +2.8 over the bases on math, and steadier over seeds", seconds=60, seeds=12,
       stand_in="an enumerable policy at a learning rate that is too large")  # fmt: skip
def pipo(run: ClaimRun) -> Outcome:
    """GRPO with small noisy batches at a large learning rate, with and without retrospective verification: exact reward after
    60 steps. Notes: constant feedback (mere replay) in the place of the measured one, and the spread over seeds."""
    bed = Testbed(batch=2, group=4, lr=0.3)
    steps = run.steps(60)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("pipo", bed, steps, run.seeds)
    spread = [np.std([c.final for c in curves]) for curves in (base, ours)]
    run.note(f"standard deviation over seeds: {spread[0]:.3f} (grpo), {spread[1]:.3f} (pipo).")
    forward = finals(find("pipo").algorithm().set({"credit.backward": 0.0}), bed, steps, run.seeds)
    run.note(f"reinforcing only (no step back): {np.mean([c.final for c in forward]):.3f}.")
    signs = [_right_signs(c) for c in ours]
    run.note(f"feedback has the sign of the true change of the expected reward in {np.mean(signs):.2f} of the steps.")
    return compare([c.final for c in base], [c.final for c in ours], "exact reward after training", run)


def _right_signs(curves: Curves) -> float:
    """How often the feedback of a step agrees in sign with what the update before it truly did."""
    feedback = np.nan_to_num(curves.metrics["credit/feedback"])[2:]
    change = np.diff(curves.value)[:-1]
    seen = feedback != 0
    return float((np.sign(feedback[seen]) == np.sign(change[seen])).mean()) if seen.any() else 0.5


@claim("xrpo", published="up to +4 % pass@1 over GRPO and GSPO; convergence up to 2.7 times faster", seconds=60, seeds=6,
       stand_in=TOY + " of widely varying difficulty")  # fmt: skip
def xrpo(run: ClaimRun) -> Outcome:
    """Rollouts where they reduce uncertainty, and unlikely right answers paid more: mean exact reward over 80 steps against GRPO
    at the same 128 rollouts per step."""
    bed = Testbed(prompts=16, batch=16, group=8, lr=0.03, task=hard_and_easy)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("xrpo", bed, steps, run.seeds)
    plain = finals(find("xrpo").algorithm().set({"credit.shape": []}), bed, steps, run.seeds)
    run.note(f"without the novelty bonus: {np.mean([c.area for c in plain]):.4f}.")
    run.note(f"largest group: {np.mean([c.metric('generate/largest_group').mean() for c in ours]):.1f}.")
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


def hard_and_easy(graph: StateGraph) -> Any:
    """Sixteen prompts that want one to four particular letters: initial success from about a quarter to a few in a thousand."""
    targets = ["a", "b", "c", "a", "ab", "bc", "ca", "cb", "abc", "bca", "cab", "acb", "abca", "bcab", "cabc", "acba"]
    rule = lambda p, text: float(text.startswith(targets[p]))
    return rule_task(graph, 16, {"correct": rule}, lambda p: targets[p])


@claim("drive", published="state of the art at 32B on LeetCode and Codeforces; hard-focus with 64 rollouts after breadth with 8",
       seconds=100, seeds=5, stand_in="an enumerable policy on 24 tasks with success from a quarter to one in a thousand")  # fmt: skip
def drive(run: ClaimRun) -> Outcome:
    """Breadth with 8 rollouts, then depth with 64 on what is unsolved, against 8 rollouts throughout at the same rollouts per step:
    how many of the tasks that start below 2 % end above 50 %. Notes: reward over all tasks, and depth first."""

    def task(graph: StateGraph) -> Any:
        words = ["a", "b", "ab", "ba", "abc", "bca", "cab", "acc", "abcd", "bcda", "cdab", "dabc"]
        targets = words + [w.translate(str.maketrans("abcd", "dcba")) for w in words]
        return rule_task(
            graph, 24, {"correct": lambda p, text: float(text.startswith(targets[p]))}, lambda p: targets[p]
        )

    bed = Testbed(vocabulary=5, horizon=4, batch=8, group=8, lr=0.1, spread=0.3, task=task)
    steps = run.steps(300)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("drive", bed, steps, run.seeds)
    reversed_ = find("drive").algorithm().set({"control.breadth": 0.0, "control.phases": 2})
    first = finals(reversed_, bed, steps, run.seeds)
    solved = [[_hard_solved(c) for c in curves] for curves in (base, ours, first)]
    run.note(
        f"reward over all tasks: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (drive)."
    )
    run.note(f"depth from the first step: {np.mean(solved[2]):.2f} hard tasks.")
    return compare(solved[0], solved[1], "hard tasks solved", run)


def _hard_solved(curves: Curves) -> float:
    hard = curves.values[0] < 0.02
    return float((curves.values[-1][hard] > 0.5).sum())


@claim("v-zero", published="within-policy AUC 0.913 against 0.840 for a trained value model; 0.71 against 0.56 on unseen queries",
       seconds=60, seeds=5, stand_in="item-response policies (ability vector, item difficulty), hashed prompts")  # fmt: skip
def v_zero(run: ClaimRun) -> Outcome:
    """Trained on 200 simulated policies, tested on unseen policies and items: AUC within a policy with ranking loss against
    cross-entropy alone. Notes: AUC by the size of the context, and rollouts planned by it against uniform ones."""
    steps = run.steps(400)
    pairs = run.each(lambda seed: (_auc(seed, 0.0, steps), _auc(seed, 0.25, steps)))
    base, ours = ([p[side][256] for p in pairs] for side in (0, 1))
    by_size = {n: np.mean([p[1][n] for p in pairs]) for n in (8, 64, 256)}
    run.note("AUC by context: " + ", ".join(f"{n}: {a:.3f}" for n, a in by_size.items()) + ".")
    bed = Testbed(prompts=16, batch=16, group=8, lr=0.03, task=hard_and_easy)
    steps = run.steps(80)
    plain, planned = (np.mean([c.area for c in finals(name, bed, steps, run.seeds)]) for name in ("grpo", "v-zero"))
    run.note(f"exact reward over training with planned rollouts: {planned:.4f}, with uniform ones (GRPO): {plain:.4f}.")
    return compare(base, ours, "AUC within unseen policies on unseen items", run)


def _auc(seed: int, rank_weight: float, steps: int) -> dict[int, float]:
    """Mean AUC within unseen policies on unseen items, by context size."""
    generator = torch.Generator().manual_seed(seed)
    skills = 6
    topics = torch.randn(skills, WIDTH, generator=generator)

    def items(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, topic mixture and difficulty of n items; a feature tells the difficulty, noisily."""
        mix = torch.softmax(3 * torch.randn(n, skills, generator=generator), 1)
        hard = torch.randn(n, generator=generator)
        x = mix @ topics + 0.3 * torch.randn(n, WIDTH, generator=generator)
        x[:, 0] += 3 * hard + torch.randn(n, generator=generator)
        return torch.nn.functional.normalize(x, dim=1), mix, hard

    def outcomes(mix: torch.Tensor, hard: torch.Tensor, ability: torch.Tensor) -> torch.Tensor:
        chance = torch.sigmoid(3 * (mix @ ability) - 1.5 * hard)
        return (torch.rand(len(chance), generator=generator) < chance).float()

    model = ContextValue(seed=seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    abilities = 1.5 * torch.randn(200, skills, generator=generator) + torch.randn(200, 1, generator=generator)
    pool = items(2000)
    for step in range(steps):
        chosen = torch.randperm(2000, generator=generator)[:320]
        x, mix, hard = (part[chosen] for part in pool)
        r = outcomes(mix, hard, abilities[step % 200])
        loss = value_loss(model(x[256:], x[:256], r[:256]), r[256:], rank_weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found: dict[int, list[float]] = {8: [], 64: [], 256: []}
    for _ in range(40):
        ability = 1.5 * torch.randn(skills, generator=generator) + torch.randn(1, generator=generator)
        x, mix, hard = items(400)
        r = outcomes(mix, hard, ability)
        for size in found:
            with torch.no_grad():
                score = model(x[256:], x[:size], r[:size])
            won, lost = score[r[256:] == 1], score[r[256:] == 0]
            if len(won) and len(lost):
                found[size].append(float((won[:, None] > lost).float().mean()))
    return {size: float(np.mean(values)) for size, values in found.items()}
