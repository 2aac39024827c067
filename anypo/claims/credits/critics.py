"""Claims of `anypo.systems.credits.critics`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, fewer_events, not_worse
from anypo.claims.beds.exact import Testbed, finals, mean, train
from anypo.credit.centres.heads import RidgeHead, fit_head, rollout_features
from anypo.exact import ExactTask, StateGraph, patterns, truth
from anypo.exact.policy import LETTERS
from anypo.exact.truth import value
from anypo.run.trainer import Trainer
from anypo.systems import find


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
    base = run.each(lambda seed: _timed(bed, None, steps, seed))
    budget = mean([clock[-1] for clock, _ in base])
    ours = run.each(lambda seed: _timed(bed, WINDOW, int(budget) // WINDOW, seed))
    spent = [[_time_to(0.75, *timed, budget) for timed in runs] for runs in (base, ours)]
    run.note(f"speed-up {mean(spent[0]) / mean(spent[1]):.2f}; decoding time {budget:.0f} for each run.")
    run.note(
        f"exact reward at the end: {mean([v[-1] for _, v in base]):.3f} (whole), {mean([v[-1] for _, v in ours]):.3f} (windows)."
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


def _timed(bed: Testbed, window: int | None, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decoding time and exact reward after every step, both [steps + 1]; without a window of whole answers."""
    ticks = [0]

    def watch(trainer: Trainer) -> None:
        extensions = (len(t) - t.extra.get("window", 0) for group in trainer.groups for t in group.trajectories)
        ticks.append(max(extensions, default=0))

    whole = {"generate": {"part": "independent", "max_new": bed.horizon}, "credit.select": []}
    curves = train("t-ppo", bed.replace(set={"generate.window": window} if window else whole), steps, seed, watch)
    return np.cumsum(ticks), curves.value


def _time_to(threshold: float, clock: np.ndarray, value: np.ndarray, budget: float) -> float:
    reached = np.flatnonzero(value >= threshold)
    return float(min(clock[reached[0]], budget)) if len(reached) else budget


@claim("safe-rlhf-pid", base="the same without the penalty's gradient", seconds=60, seeds=12,
       stand_in="an enumerable policy whose proxy reward pays double for one worthless answer",
       published="+5.15 % training reward over PPO (0.725 against 0.689, 3B), hardly any reward crashes, tighter KL")  # fmt: skip
def safe_rlhf_pid(run: ClaimRun) -> Outcome:
    """A controlled KL against none, under a reward that can be hacked: crashes of the true reward (more than 20 % below the run's own
    maximum) within 150 steps. The proxy pays 2 for one answer that is worth nothing and equals the true reward elsewhere."""
    bed = Testbed(horizon=3, batch=8, group=8, lr=0.05, task=hackable)
    steps = run.steps(150)
    guarded = find("safe-rlhf-pid").algorithm()
    free = guarded.set({"objective.regularise.1.mode": "inert"})
    base, ours = (run.each(partial(true_reward, method, bed, steps)) for method in (free, guarded))
    strength = {"objective.regularise.1": {"part": "kl", "coefficient": 0.1, "estimator": "k2"}}
    fixed = run.each(partial(true_reward, guarded.set(strength), bed, steps))
    for name, side in (("without", base), ("controlled", ours), ("fixed KL weight 0.1", fixed)):
        worst = np.mean([k for _, k in side])
        final = np.mean([v[-max(1, steps // 10) :].mean() for v, _ in side])
        run.note(
            f"{name}: {sum(crashed(v) for v, _ in side)} crashes, true reward {final:.3f}, largest KL {worst:.2f};"
        )
    return fewer_events(
        [crashed(v) for v, _ in base], [crashed(v) for v, _ in ours], "runs whose true reward crashed", run
    )


def hackable(graph: StateGraph) -> ExactTask:
    """Graded rewards, except that the answer of forbidden tokens throughout pays 2 (see `true_task`)."""
    task = true_task(graph)
    reward = task.reward.clone()
    for prompt in range(len(reward)):
        path = hack(task.reward[prompt], graph)
        reward[prompt, path[-1][0], path[-1][1]] += 2.0
    return ExactTask(graph, reward, task.targets, "hackable")


def true_task(graph: StateGraph) -> ExactTask:
    return patterns(graph, 4, "graded")


def hack(reward: Tensor, graph: StateGraph) -> list[tuple[int, int]]:
    """States and tokens of the longest answer that takes the least rewarded letter everywhere."""
    state, out = 0, []
    while state >= 0:
        token = 1 + int(reward[state, 1:].argmin())
        out.append((state, token))
        state = int(graph.child[state, token])
    return out


def true_reward(method: Algorithm, bed: Testbed, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """The exact true reward after every step, and the largest KL of a whole answer from the initial policy."""
    true = true_task(bed.states())
    values: list[float] = []

    def watch(trainer: Trainer) -> None:
        policy: Any = trainer.world.policy
        with torch.no_grad():
            values.append(float(truth.value(policy.log_table(), true.reward, true.graph).mean()))

    curves = train(method, bed, steps, seed, watch)
    return np.array(values), float(curves.kl.max())


def crashed(values: np.ndarray) -> bool:
    """Some value is more than 20 % below the largest before it."""
    return bool((values < 0.8 * np.maximum.accumulate(values)).any())
