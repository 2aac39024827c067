"""Claims of `anypo.systems.rollouts.budgets`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.claims.beds.worlds import SIXTEEN_TOY, hard_and_easy, rule_task
from anypo.credit.centres.generalist import WIDTH, ContextValue, value_loss
from anypo.exact import StateGraph
from anypo.systems import find


@claim("xrpo", published="up to +4 % pass@1 over GRPO and GSPO; convergence up to 2.7 times faster", seconds=60, seeds=6,
       stand_in=SIXTEEN_TOY + " of widely varying difficulty")  # fmt: skip
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


@claim("brorl", base="grpo", published="512 rollouts per prompt revive a 1.5B model that had saturated at 16", seconds=40, seeds=5,
       stand_in="the paper's own simulator: a softmax over 2000 tokens, 150 of them right")  # fmt: skip
def brorl(run: ClaimRun) -> Outcome:
    """The paper's simulator: final probability of the right tokens after 300 steps with 1024 draws per step against 16.
    Notes: the one-step formula against finite differences, and the worst loss of a right token's probability."""
    steps = run.steps(300)
    few, many = ([simulate(n, steps, seed) for seed in run.seeds] for n in (16, 1024))
    run.note(f"one-step theorem, largest relative error: {theorem_error():.1e}.")
    drops = [np.mean([d for _, d in pairs]) for pairs in (few, many)]
    run.note(f"worst change of a right token's log probability: {drops[0]:.2f} (16), {drops[1]:.2f} (1024).")
    return compare([q for q, _ in few], [q for q, _ in many], "probability of the right tokens", run)


def simulate(draws: int, steps: int, seed: int, tokens: int = 2000, right: int = 150) -> tuple[float, float]:
    """Probability of the right tokens at the end, and the worst change of a right token's log probability."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(tokens, requires_grad=True)
    optimiser = torch.optim.AdamW([logits], lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        p = logits.softmax(0)
        drawn = torch.multinomial(p.detach(), draws, replacement=True, generator=generator)
        reward = torch.where(drawn < right, 1.0, -1.0)
        loss = -((reward - reward.mean()) * p[drawn]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    logp = logits.detach().log_softmax(0)
    return float(logp[:right].exp().sum()), float((logp[:right] + np.log(tokens)).min())


def theorem_error() -> float:
    """Largest relative error of BroRL's one-step change of the right mass, against finite differences."""
    worst = 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=12)
        right = np.arange(12) < 5
        seen = rng.random(12) < 0.6
        worth = np.where(seen, np.where(right, 1.0, -0.5), 0.0)
        p = np.exp(z) / np.exp(z).sum()
        gain = p * (worth - (worth * p).sum())
        eta = 1e-6
        moved = np.exp(z + eta * gain)
        measured = (moved[right].sum() / moved.sum() - p[right].sum()) / eta
        worst = max(worst, abs(measured - mass_change(p, right, seen, 1.0, -0.5)) / abs(measured))
    return worst


def mass_change(p: np.ndarray, right: np.ndarray, seen: np.ndarray, reward: float, penalty: float) -> float:
    """d Q+ / (eta / N): sampled right and wrong second moments help, the unsampled coupling can hurt (BroRL, theorem 1)."""
    q = p[right].sum()
    score = reward * p[right & seen].sum() + penalty * p[~right & seen].sum()
    a2, b2 = (p[right & seen] ** 2).sum(), (p[~right & seen] ** 2).sum()
    up, un = (p[right & ~seen] ** 2).sum(), (p[~right & ~seen] ** 2).sum()
    return float((reward - score) * (1 - q) * a2 + (score - penalty) * q * b2 + score * (q * un - (1 - q) * up))
