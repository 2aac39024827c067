"""Claims of the systems in `anypo.systems.objectives_c`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, not_worse
from anypo.claims.controlbeds import ControlBed, learn
from anypo.claims.testbeds import Curves, Testbed, train
from anypo.context import Context
from anypo.exact import ExactTask
from anypo.generate.base import World
from anypo.run.producer import Producer
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Environment, Problem, Reply

TOY = "an enumerable policy (4 prompts, 4 tokens) for the language model"


# -- entropy through covariance ---------------------------------------------------------------------------------------------

COLLAPSING = Testbed(batch=4, group=16, lr=0.05)


def _entropy_at_reward(run: ClaimRun, system: str) -> Outcome:
    """Exact entropy per decision at the first step whose exact reward reaches 0.8, for GRPO with a token mean and `system`."""
    count = run.steps(120)
    plain = find("grpo").algorithm().set({"objective.aggregate": "token_mean"})
    base = run.each(lambda seed: train(plain, COLLAPSING, count, seed))
    ours = run.each(lambda seed: train(system, COLLAPSING, count, seed))
    run.note(f"reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} ({system}).")
    run.note(f"entropy at the end: {_last_entropy(base):.3f} (grpo), {_last_entropy(ours):.3f} ({system}).")
    return compare(
        [_entropy_at(c, 0.8) for c in base], [_entropy_at(c, 0.8) for c in ours], "entropy when the reward reaches 0.8", run
    )  # fmt: skip


@claim("clip-cov", base="grpo", published="entropy more than ten times GRPO's; 2.0 % (7B) and 6.4 % (32B) more on average",
       seconds=60, stand_in=TOY)  # fmt: skip
def clip_cov(run: ClaimRun) -> Outcome:
    """Taking the gradient of a few tokens with a high covariance away: entropy at equal reward, against GRPO with the same token
    mean. A batch has about 200 tokens, so the least it can take, one, is 25 times the published share."""
    return _entropy_at_reward(run, "clip-cov")


@claim("kl-cov", base="grpo", published="entropy more than ten times GRPO's; 2.0 % (7B) and 6.4 % (32B) more on average",
       seconds=60, stand_in=TOY)  # fmt: skip
def kl_cov(run: ClaimRun) -> Outcome:
    """The penalty on the token with the highest covariance: entropy at equal reward, against GRPO with the same token mean. Four
    epochs for both, because |log pi - log pi_old| has no gradient at the first step from pi_old."""
    count = run.steps(60)
    settings = {"update.epochs": 4}
    plain = find("grpo").algorithm().set({"objective.aggregate": "token_mean", **settings})
    base = run.each(lambda seed: train(plain, COLLAPSING, count, seed))
    ours = run.each(lambda seed: train(find("kl-cov").algorithm().set(settings), COLLAPSING, count, seed))
    run.note(f"reward at the end: {_final(base):.3f} (grpo), {_final(ours):.3f} (kl-cov).")
    return compare(
        [_entropy_at(c, 0.8) for c in base], [_entropy_at(c, 0.8) for c in ours], "entropy when the reward reaches 0.8", run
    )  # fmt: skip


# -- control ------------------------------------------------------------------------------------------------------------------

CONTROL = ControlBed(environments=8, steps=32, epochs=20, minibatches=1, lr=1e-3, gamma=0.98, lam=0.8)
"""CartPole with many passes over small batches: where it shows what keeps a policy near its data."""


def _mean_return(method: Algorithm | str, seed: int, total: int, bed: ControlBed = CONTROL) -> float:
    return float(np.nanmean(learn(method, bed, total, seed)[0]))


@claim("mdpo", base="one gradient step per batch", seconds=60, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="several gradient steps on the penalised objective are essential; like or better than TRPO and PPO")  # fmt: skip
def mdpo(run: ClaimRun) -> Outcome:
    """Mirror descent with m = 10 gradient steps per batch against m = 1 (where its KL has no gradient) on the same 12,000 steps of
    CartPole: mean episode return while learning. The learning rate is ten times smaller with ten steps, so that the optimiser
    covers the same distance."""
    total = run.steps(12_000)
    many, single = CONTROL.replace(epochs=10, lr=1e-3), CONTROL.replace(epochs=1, lr=1e-2)
    base = run.each(lambda seed: _mean_return("mdpo", seed, total, single))
    ours = run.each(lambda seed: _mean_return("mdpo", seed, total, many))
    clip = run.each(lambda seed: _mean_return("ppo", seed, total, many))
    run.note(f"PPO's clip under the settings of m = 10: {np.mean(clip):.1f}.")
    return compare(base, ours, "mean episode return over training", run)


@claim("bpo-bounded-ratio", base="ppo", seconds=60, seeds=5, stand_in="CartPole-v1 for MuJoCo",
       published="matches or beats PPO on MuJoCo, Atari and IsaacLab, with smoother curves")  # fmt: skip
def bpo_bounded_ratio(run: ClaimRun) -> Outcome:
    """The pull back to the target ratio against PPO's clip: mean episode return while learning CartPole for 12,000 steps, 20 epochs
    per batch. The 4-epoch figures of both are in the remarks."""
    total = run.steps(12_000)
    base = run.each(lambda seed: _mean_return("ppo", seed, total))
    ours = run.each(lambda seed: _mean_return("bpo-bounded-ratio", seed, total))
    few = CONTROL.replace(epochs=4)
    for name in ("ppo", "bpo-bounded-ratio"):
        run.note(f"with 4 epochs, {name}: {np.mean([_mean_return(name, s, total, few) for s in run.seeds]):.1f}.")
    return compare(base, ours, "mean episode return over training", run)


@claim("gbpo", base="grpo", published="stays stable with more epochs and a wider bound, where GRPO does not (TTRL)",
       seconds=60, stand_in=TOY)  # fmt: skip
def gbpo(run: ClaimRun) -> Outcome:
    """Sixteen epochs per batch with bounds of 0.4 on shared features: exact reward at the end, against GRPO's clip."""
    bed = Testbed(kind="linear", batch=4, group=8, lr=0.05)
    count = run.steps(40)
    wide = {"objective.trust.low": 0.4, "objective.trust.high": 0.4, "update.epochs": 16}
    base = run.each(lambda seed: train(find("grpo").algorithm().set(wide), bed, count, seed))
    ours = run.each(lambda seed: train(find("gbpo").algorithm().set(wide), bed, count, seed))
    run.note(f"largest ratio, mean over steps: {_ratio(base):.2f} (grpo), {_ratio(ours):.2f} (gbpo).")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)


# -- chunks -------------------------------------------------------------------------------------------------------------------


class _Chunks(Producer):
    """Rollouts in which every `size` decisions of an answer are one chunk of an interaction."""

    size = 2

    def produce(self, context: Context) -> None:
        super().produce(context)
        self.fresh, self.kept = ([self._cut(group) for group in groups] for groups in (self.fresh, self.kept))

    def _cut(self, group: Any) -> Any:
        cut = (t.replace(turn=np.arange(len(t)) // self.size) for t in group.trajectories)
        return group.replace(trajectories=tuple(cut))


class _Chunked(Trainer):
    """The loop with every two decisions as one chunk."""

    size = 2

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.producer = _Chunks(self.algorithm, self.world, self.weights)
        self.producer.size = self.size


class _PerToken(_Chunked):
    """Every decision is its own chunk: ratios, mask and discount per token."""

    size = 1


@claim("ipa-chunk", base="the same per token", seconds=60, published="steadier gradient norms and higher success than per token",
       stand_in="stale answers of 8 tokens, in chunks of two, on an enumerable chain for an agent's episodes")  # fmt: skip
def ipa_chunk(run: ClaimRun) -> Outcome:
    """Chunks as the unit of return, ratio and mask against single tokens, with rewards -1 to 1 and samplers eight steps behind: mean
    exact reward over training. The discount is 0.95 per unit in both."""
    bed = Testbed(graph="chain", vocabulary=4, horizon=8, reward="graded", lag=8, noise=0.2, old="sampler", lr=0.03)
    method = bed.adapt("ipa-chunk").set({"credit.shaping": [{"part": "rescale", "low": 0.5}]})
    count = run.steps(60)

    def play(kind: type[Trainer], seed: int) -> tuple[float, float]:
        loop = kind(method, bed.world(seed), seed, count)
        logs = [loop.step() for _ in range(count)]
        norms = np.array([log["update/grad_norm"] for log in logs if "update/grad_norm" in log])
        return float(np.mean([log["reward/mean"] for log in logs])), float(norms.std() / norms.mean())

    base, ours = run.each(lambda seed: play(_PerToken, seed)), run.each(lambda seed: play(_Chunked, seed))
    spread = [np.mean([entry[1] for entry in side]) for side in (base, ours)]
    run.note(f"variation of the gradient's norm (std / mean): {spread[0]:.2f} (token), {spread[1]:.2f} (chunk).")
    return compare([b[0] for b in base], [o[0] for o in ours], "mean reward over training", run)


# -- offline ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Corrupted:
    """An environment that gives a random reward half of the time."""

    inner: Environment
    dice: np.random.Generator

    def reset(self) -> Any:
        return self.inner.reset()

    def step(self, *reply: Any) -> Reply:
        found = self.inner.step(*reply)
        if self.dice.random() < 0.5:
            return dataclasses.replace(found, rewards={"correct": float(self.dice.random())})
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _NoisyTask(ExactTask):
    """A task half of whose rewards are random; `reward`, by which policies are evaluated, is the true one."""

    dice: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    def environment(self, problem: Problem) -> Environment:
        return _Corrupted(super().environment(problem), self.dice)


class _NoisyBed(Testbed):
    def world(self, seed: int) -> World:
        plain = super().world(seed)
        clean: Any = plain.task
        task = _NoisyTask(clean.graph, clean.reward, clean.targets, clean.kind, dice=np.random.default_rng(seed))
        return World(task, plain.policy, plain.sampler)  # type: ignore[arg-type]


@claim("a-lol", base="behaviour cloning weighted by the reward", seconds=60, stand_in=TOY,
       published="most helpful and safest of the offline methods on HHA, and robust to noisy data in three tasks")  # fmt: skip
def a_lol(run: ClaimRun) -> Outcome:
    """Offline, from 16 steps of the initial policy's answers with half of the rewards random: exact (true) reward after 60 steps on
    this data, against weighted behaviour cloning (reward times log-likelihood, no baseline, no filter, no ratio)."""
    bed = _NoisyBed(reward="graded", lr=0.02, set={"replay.groups": 4})
    count = 16 + run.steps(60)
    ours_method = find("a-lol").algorithm()
    cloning = ours_method.set({"credit.centre": "none", "credit.select": [], "objective.ratio": "score"})
    base = run.each(lambda seed: train(cloning, bed, count, seed))
    ours = run.each(lambda seed: train(ours_method, bed, count, seed))
    free = run.each(lambda seed: train(ours_method.set({"objective.ratio": "score"}), bed, count, seed))
    run.note(f"A-LoL ref-free: {_final(free):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)


# -- staleness ----------------------------------------------------------------------------------------------------------------

FIXED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "grpo 0.1": ("grpo", {"objective.trust.low": 0.1, "objective.trust.high": 0.1}),
    "grpo 0.4": ("grpo", {"objective.trust.low": 0.4, "objective.trust.high": 0.4}),
    "cispo 1": ("cispo", {"objective.trust.high": 1.0}),
    "cispo 3": ("cispo", {"objective.trust.high": 3.0}),
}


@claim("p3o-ess", base="the clip range that is best at each lag", seconds=80, seeds=6, stand_in=TOY,
       published="matches or beats tuned GRPO, DAPO and CISPO on and off policy, with nothing to tune")  # fmt: skip
def p3o_ess(run: ClaimRun) -> Outcome:
    """One configuration for samplers 0, 8 and 32 steps behind against the best of four fixed clips, chosen for each lag by its mean
    over the seeds: exact reward at the end, mean over the lags. Not worse by more than 0.03."""
    count = run.steps(100)
    ours, best, fixed = [], [], {name: [] for name in FIXED}  # type: ignore[var-annotated]
    for lag in (0, 8, 32):
        bed = Testbed(lag=lag, old="sampler", lr=0.05)
        tried = {
            name: [train(find(base).algorithm().set(changes), bed, count, seed).final for seed in run.seeds]
            for name, (base, changes) in FIXED.items()
        }
        winner = max(tried, key=lambda name: float(np.mean(tried[name])))
        best.append(tried[winner])
        ours.append([train("p3o-ess", bed, count, seed).final for seed in run.seeds])
        for name, finals in tried.items():
            fixed[name].append(float(np.mean(finals)))
        run.note(f"lag {lag}: {np.mean(ours[-1]):.3f} against {np.mean(best[-1]):.3f} ({winner}).")
    worst = {name: round(min(means), 3) for name, means in fixed.items()}
    run.note(f"worst lag: {min(np.mean(o) for o in ours):.3f}; of the fixed ones: {worst}.")
    return not_worse(list(np.mean(best, 0)), list(np.mean(ours, 0)), 0.03, "final exact reward", run)


@claim("missing-old-logits", base="decoupled at the step's starting policy", seconds=60, stand_in=TOY,
       published="lost old logits break decoupled correction; exact ones restore it (no figure for the exact strategies)")  # fmt: skip
def missing_old_logits(run: ClaimRun) -> Outcome:
    """Snapshots against the shortcut that splits the ratio at the present policy, with answers begun eight steps ago, written by
    several versions, and an engine with an error of 0.2 in its logits: exact reward at the end. The remarks give the share of
    tokens that each takes for an engine's mistake, and weight averaging (PPO-EWMA, decay 0.8)."""
    bed = Testbed(lag=8, versions="partial", noise=0.2, lr=0.15)
    count = run.steps(50)
    exact = find("missing-old-logits").algorithm()
    shortcut = exact.set(
        {
            "update.reference": "none",
            "objective.ratio": "token",
            "objective.corrections.0.ratio.numerator": "old",
        }
    )
    average = exact.set({"update.reference": {"part": "ema", "decay": 0.8}})
    base, ours, middle = (
        [train(method, bed, count, seed) for seed in run.seeds] for method in (shortcut, exact, average)
    )
    shares = [
        float(np.mean([c.metric("objective/rejected_share").mean() for c in side])) for side in (base, middle, ours)
    ]
    run.note(f"left out: {shares[0]:.3f} (shortcut), {shares[1]:.3f} (average), {shares[2]:.3f} (exact).")
    run.note(f"final reward with the average: {_final(middle):.3f}.")
    return compare([c.final for c in base], [c.final for c in ours], "final exact reward", run)


# -- readings -----------------------------------------------------------------------------------------------------------------


def _final(curves: list[Curves]) -> float:
    return float(np.mean([c.final for c in curves]))


def _last_entropy(curves: list[Curves]) -> float:
    return float(np.mean([c.entropy[-1] for c in curves]))


def _entropy_at(curves: Curves, reward: float) -> float:
    """Entropy at the first step that reaches `reward`; at the last step where none does."""
    step = curves.steps_to(reward)
    return float(curves.entropy[int(step) if np.isfinite(step) else -1])


def _ratio(curves: list[Curves]) -> float:
    return float(np.mean([c.metric("objective/ratio_max").mean() for c in curves]))
