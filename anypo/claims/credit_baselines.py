"""Claims about baselines, normalisation and selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, not_worse
from anypo.claims.credit_worlds import expected, final_policy, finals, rule_task
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.credit.centres.heads import RidgeHead, fit_head, rollout_features
from anypo.credit.scales import beta_density, beta_exponents
from anypo.exact import StateGraph
from anypo.exact.truth import value
from anypo.systems import find

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"


@claim("mc-grpo", published="GSM8K +4.6 points over GRPO at two rollouts per prompt (1.7B); the gap to eight within 1 %",
       seconds=40, seeds=10, stand_in=TOY)  # fmt: skip
def mc_grpo(run: ClaimRun) -> Outcome:
    """A median baseline at two trained rollouts per prompt (three generated, one dropped) against GRPO with two: mean exact
    reward over 100 steps. Graded rewards, so that a median differs from the majority outcome."""
    bed = Testbed(reward="graded", lr=0.02)
    steps = run.steps(100)
    base = [c.area for c in finals("grpo", bed.replace(group=2), steps, run.seeds)]
    ours = [c.area for c in finals("mc-grpo", bed.replace(group=3), steps, run.seeds)]
    eight = np.mean([c.area for c in finals("grpo", bed.replace(group=8), steps, run.seeds)])
    flips = {g: sign_flips(g) for g in (2, 4, 8)}
    run.note(
        f"GRPO with eight rollouts: {eight:.3f}. Wrong signs under heavy-tailed rewards, mean against median baseline:"
    )
    run.note("; ".join(f"G = {g}: {a:.3f} against {b:.3f}" for g, (a, b) in flips.items()) + ".")
    return compare(base, ours, "mean exact reward over training", run)


def sign_flips(group: int, draws: int = 20_000) -> tuple[float, float]:
    """Share of rollouts whose advantage has the opposite sign of reward minus expected reward, under the mean of `group` rollouts
    and under the median of `group` + 1. Rewards 0, 0.1, 1 or, rarely, 5."""
    rng = np.random.default_rng(group)
    values, chance = np.array([0.0, 0.1, 1.0, 5.0]), np.array([0.45, 0.2, 0.3, 0.05])
    rewards = rng.choice(values, (draws, group + 1), p=chance)
    truth = np.sign(rewards - values @ chance)
    few = rewards[:, :group]
    mean = np.sign(few - few.mean(1, keepdims=True))
    median = np.sign(rewards - np.sort(rewards, 1)[:, [group // 2]])
    return float((mean * truth[:, :group] < 0).mean()), float((median * truth < 0).mean())


@claim("bnpo", published="steadier, lower-variance gradients than REINFORCE and GRPO; best average on math benchmarks",
       seconds=20, seeds=10, stand_in="prompts with success rates from a Beta law, 16 rollouts each, no network")  # fmt: skip
def bnpo(run: ClaimRun) -> Outcome:
    """Variance of the normalised advantage at equal mean size, (standard deviation / mean absolute value)^2 over 32
    prompts x 16 rollouts, as log ratio to GRPO's: negative is better. Success rates from Beta(2.3, 1.1), Beta(1, 1),
    Beta(4, 4) and Beta(0.8, 3)."""

    def spread(rewards: np.ndarray, weight: np.ndarray) -> float:
        advantage = weight[:, None] * (rewards - rewards.mean(1, keepdims=True))
        size = np.abs(advantage).mean()
        return float(advantage.var() / size**2) if size > 0 else 1.0

    def one(seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        found = []
        for a, b in ((2.3, 1.1), (1.0, 1.0), (4.0, 4.0), (0.8, 3.0)):
            for _ in range(run.steps(50)):
                p = rng.beta(a, b, 32)
                rewards = (rng.random((32, 16)) < p[:, None]).astype(float)
                rate = torch.tensor(rewards.mean(1))
                density = beta_density(rate, *beta_exponents(rate)).numpy().clip(1e-6)
                std = rewards.std(1, ddof=1)
                grpo = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
                found.append((spread(rewards, grpo), spread(rewards, np.where(std > 0, 1 / density, 0.0))))
        return tuple(np.log(np.array(found)).mean(0))  # type: ignore[return-value]

    pairs = run.each(one)
    return compare(
        [b for b, _ in pairs], [o for _, o in pairs], "log relative variance of the advantage", run, larger=False
    )


@claim("gdpo", published="better and steadier trade-offs than GRPO on two and three rewards; no early collapse of the hard one",
       seconds=60, seeds=10, stand_in="an enumerable policy with an easy and a hard binary reward")  # fmt: skip
def gdpo(run: ClaimRun) -> Outcome:
    """An easy reward (the first letter is right) and a hard one (letters two to four are): mean exact hard reward over 80
    steps against GRPO on the sum."""
    bed = Testbed(vocabulary=4, horizon=4, lr=0.05, task=_two_rewards)

    def area(system: str, seed: int) -> tuple[float, float]:
        curve: list[list[float]] = []

        def watch(trainer: Any) -> None:
            policy, task = trainer.world.policy, trainer.world.task
            curve.append([expected(policy, task.table(name)) for name in ("hard", "easy")])

        train(system, bed, run.steps(80), seed, watch)
        hard, easy = np.mean(curve, 0)
        return float(hard), float(easy)

    base, ours = ([area(name, seed) for seed in run.seeds] for name in ("grpo", "gdpo"))
    run.note(f"easy reward: {np.mean([e for _, e in base]):.3f} (grpo), {np.mean([e for _, e in ours]):.3f} (gdpo).")
    return compare([h for h, _ in base], [h for h, _ in ours], "mean exact hard reward over training", run)


def _two_rewards(graph: StateGraph) -> Any:
    easy, hard = ["a", "b", "c", "a"], ["bca", "cab", "abb", "cca"]
    rules = {
        "easy": lambda p, text: float(text[:1] == easy[p]),
        "hard": lambda p, text: float(text[1:4] == hard[p]),
    }
    return rule_task(graph, 4, rules, lambda p: easy[p] + hard[p])


@claim("adora", published="AMC 40 after 100 steps instead of 35 (GRPO)", seconds=60, seeds=10,
       stand_in="an enumerable policy whose chance of being right grows with the length of its answer")  # fmt: skip
def adora(run: ClaimRun) -> Outcome:
    """Longer answers pay: an answer of n letters is right when at least one of them is the prompt's. Mean exact reward
    over 60 steps against GRPO; a control where only the first letter counts is in the notes."""

    def task(anywhere: bool) -> Any:
        letters = ["a", "b", "c", "a"]
        rule = lambda p, text: float(letters[p] in (text if anywhere else text[:1]))
        return lambda graph: rule_task(graph, 4, {"correct": rule}, lambda p: letters[p])

    steps = run.steps(60)
    bed = Testbed(vocabulary=4, horizon=5, lr=0.02)
    base = [c.area for c in finals("grpo", bed.replace(task=task(True)), steps, run.seeds)]
    ours = [c.area for c in finals("adora", bed.replace(task=task(True)), steps, run.seeds)]
    control = [
        np.mean([c.area for c in finals(name, bed.replace(task=task(False)), steps, run.seeds)])
        for name in ("grpo", "adora")
    ]
    run.note(f"control, length irrelevant: {control[0]:.3f} (grpo), {control[1]:.3f} (adora).")
    return compare(base, ours, "mean exact reward over training", run)


@claim("dagrpo", published="+4.7 % average accuracy over GRPO and hybrid baselines; no gradient explosions", seconds=60,
       seeds=10, stand_in="an enumerable policy; prompts with one right answer among 256")  # fmt: skip
def dagrpo(run: ClaimRun) -> Outcome:
    """Hopeless prompts (one right answer of four letters): exact reward after 60 steps against GRPO. The anchors are worked
    solutions, which GRPO does not see; so the notes give GRPO with the same anchors and no selection."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.05)
    steps = run.steps(60)
    base = [c.final for c in finals("grpo", bed, steps, run.seeds)]
    ours = finals("dagrpo", bed, steps, run.seeds)
    anchored = find("dagrpo").algorithm().set({"credit.select": [], "credit.shaping": []})
    run.note(f"anchors alone: {np.mean([c.final for c in finals(anchored, bed, steps, run.seeds)]):.3f}.")
    run.note(f"share of rollouts dropped: {np.mean([c.metric('credit/conflict_share').mean() for c in ours]):.3f}.")
    return compare(base, [c.final for c in ours], "exact reward after training", run)


@claim("d3s", published="2.0 to 5.5 times faster to equal accuracy with under 20 % of the tokens; pass@1 29.8 to 34.3 (7B)",
       seconds=60, seeds=10, stand_in=TOY + ", most prompts easy")  # fmt: skip
def d3s(run: ClaimRun) -> Outcome:
    """Tokens trained on until the exact reward has covered 80 % of GRPO's gain (log ratio to GRPO; negative is better),
    16 prompts of which twelve are easy, 80 steps. Runs that never get there count with all their tokens."""
    bed = Testbed(prompts=16, batch=16, lr=0.03, task=_mostly_easy)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("d3s", bed, steps, run.seeds)
    goals = [c.value[0] + 0.8 * (c.final - c.value[0]) for c in base]
    spent = [[np.log(_tokens_to(c, goal)) for c, goal in zip(curves, goals)] for curves in (base, ours)]
    run.note(
        f"final reward: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (d3s)."
    )
    return compare(spent[0], spent[1], "log tokens trained to 80 % of GRPO's gain", run, larger=False)


def _mostly_easy(graph: StateGraph) -> Any:
    def rule(p: int, text: str) -> float:
        return float(text[:1] != "c") if p < 12 else float(text[:2] == ("ab", "bc", "ca", "cb")[p - 12])

    return rule_task(graph, 16, {"correct": rule}, lambda p: "a" if p < 12 else ("ab", "bc", "ca", "cb")[p - 12])


def _tokens_to(curves: Curves, goal: float) -> float:
    tokens = np.nancumsum(curves.metrics["tokens/trained"])
    reached = np.flatnonzero(curves.value >= goal)
    return float(max(tokens[reached[0]] if len(reached) else tokens[-1], 1.0))


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


@claim("poise", base="grpo", published="matches DAPO on math with up to 30 % less time; the probe is as good as a model-sized critic",
       seconds=60, seeds=10, stand_in="an enumerable policy with shared features, 16 prompts")  # fmt: skip
def poise(run: ClaimRun) -> Outcome:
    """32 prompts x 2 rollouts with a cross-rollout probe against GRPO's 8 prompts x 8, the same 64 rollouts per step:
    exact reward after 60 steps, not worse by more than 0.02. Notes: calibration of the probe on rollouts it had not seen,
    against exact values, early and late, beside a running mean of rewards."""
    bed = Testbed(prompts=16, kind="linear", lr=0.03)
    steps = run.steps(60)
    base = finals("grpo", bed.replace(batch=8, group=8), steps, run.seeds)
    watched = [ProbeWatch() for _ in run.seeds]
    ours = [train("poise", bed.replace(batch=32, group=2), steps, s, w) for s, w in zip(run.seeds, watched)]
    rloo = finals("grpo", bed.replace(batch=32, group=2), steps, run.seeds)
    for when, place in (("first", slice(0, 10)), ("last", slice(-10, None))):
        guess, mean, value = (np.concatenate([np.concatenate(w.seen[place], 1)[i] for w in watched]) for i in range(3))
        run.note(
            f"{when} ten fitted steps: R2 {r_squared(guess, value):.2f}, calibration error {calibration_error(guess, value):.3f} "
            f"(running mean: {r_squared(mean, value):.2f}, {calibration_error(mean, value):.3f})."
        )
    run.note(f"GRPO with 32 x 2: {np.mean([c.final for c in rloo]):.3f}.")
    return not_worse([c.final for c in base], [c.final for c in ours], 0.02, "exact reward after training", run)


class ProbeWatch:
    """After every step, what the probe fitted before it said about the step's rollouts: `seen` holds arrays [3, rollouts] of
    the probe's guess, the running mean of rewards, and the exact value of the prompt under the policy that sampled."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.head: RidgeHead | None = None
        self.mean, self.values = 0.0, np.zeros(0)

    def __call__(self, trainer: Any) -> None:
        batch, policy, task = trainer.batch, trainer.world.policy, trainer.world.task
        if self.head is not None:
            blocks = [block.nan_to_num() for block in rollout_features(batch)]
            guess = self.head.predict(blocks).numpy()
            exact = self.values[batch.sequences["prompt"].numpy()]
            self.seen.append(np.stack([guess, np.full_like(guess, self.mean), exact]))
        centre = trainer.algorithm.credit.centre
        memory = trainer.memory[centre]
        self.head = fit_head(memory, centre.components, centre.ridge, centre.warmup)
        self.mean = float(memory["targets"].mean())
        with torch.no_grad():
            self.values = value(policy.log_table(), task.reward, policy.graph).numpy()


def r_squared(guess: np.ndarray, value: np.ndarray) -> float:
    """Share of the variance of exact values that the guesses explain."""
    return 1.0 - float(((value - guess) ** 2).sum() / ((value - value.mean()) ** 2).sum())


def calibration_error(guess: np.ndarray, value: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: |mean guess - mean value| in bins of equal width over [0, 1], weighted by their counts."""
    place = np.minimum((guess * bins).astype(int), bins - 1)
    gaps = [abs(guess[place == b].sum() - value[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(guess))


@claim("polychromic", base="ppo", published="higher pass@k and coverage than REINFORCE and PPO (BabyAI, Minigrid)",
       seconds=40, seeds=10, stand_in="a bandit-like enumerable policy, three right answers, biased 0.9 to one")  # fmt: skip
def polychromic(run: ClaimRun) -> Outcome:
    """Three of five answers are right and the policy starts with 0.9 on one of them: how many keep a probability above
    0.1 after 60 steps, against GRPO's objective with the same regularisation. Notes: exact pass@1."""
    bed = Testbed(vocabulary=6, horizon=1, prompts=1, batch=8, lr=0.02, task=_three_goals)
    ours = find("polychromic").algorithm()
    base = ours.set({"credit.components": "scalar"})
    steps = run.steps(60)
    kept: list[list[float]] = []
    success: list[float] = []
    for method in (base, ours):
        counts = []
        for seed in run.seeds:
            policy = final_policy(train_from(method, bed, steps, seed))
            p = policy.log_table().detach().exp()[0, 0]
            counts.append(float((p[1:4] > 0.1).sum()))
            success.append(float(p[1:4].sum()))
        kept.append(counts)
    half = len(run.seeds)
    run.note(f"pass@1: {np.mean(success[:half]):.3f} (plain), {np.mean(success[half:]):.3f} (sets).")
    return compare(kept[0], kept[1], "right answers with probability above 0.1", run)


def _three_goals(graph: StateGraph) -> Any:
    return rule_task(graph, 1, {"correct": lambda p, text: float(text in ("a", "b", "c"))}, lambda p: "a")


def train_from(method: object, bed: Testbed, steps: int, seed: int, favoured: float = 0.9) -> Curves:
    """A run whose policy starts with probability `favoured` on answer a."""
    from anypo.run.trainer import Trainer

    world = bed.world(seed)
    policy = world.policy
    with torch.no_grad():
        rest = (1 - favoured) / (policy.graph.vocabulary - 1)
        policy.weight.copy_(torch.full_like(policy.weight, np.log(rest)))
        policy.weight[:, 1] = np.log(favoured)
    trainer = Trainer(bed.adapt(method), world, seed, steps)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.step()
    empty = np.zeros(0)
    return Curves(empty, empty, empty, empty, {}, trainer)
