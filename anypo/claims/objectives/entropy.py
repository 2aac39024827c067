"""Claims of `anypo.systems.objectives.entropy`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals, mean_entropy, mean_final, shown, train
from anypo.systems import find


@claim("hapo-token", base="dapo", published="above DAPO on five models from 1.5B to 14B; entropy stays higher", seconds=70,
       stand_in=TOY)  # fmt: skip
def hapo_token(run: ClaimRun) -> Outcome:
    """Every token treated by its entropy: exact entropy at the moment the exact reward first reaches 0.9, against DAPO, with 16
    updates per batch of rollouts. Notes: mean reward over training, and what is left without each of the parts."""
    bed = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 16})
    steps = run.steps(30)
    base, ours = finals("dapo", bed, steps, run.seeds), finals("hapo-token", bed, steps, run.seeds)
    run.note(
        f"mean exact reward over training: {shown(c.area for c in base)} (dapo), {shown(c.area for c in ours)} (hapo)."
    )
    for label, change in (("clip ranges by entropy", "alpha"), ("advantages by entropy", "beta")):
        less = find("hapo-token").algorithm().set({f"objective.trust.{change}": 0.0})
        without = finals(less, bed, steps, run.seeds[:4])
        run.note(f"entropy without {label} (4 seeds): {shown(_entropy_at(c, 0.9) for c in without)}.")
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


COLLAPSING = Testbed(batch=4, group=16, lr=0.05)


def _entropy_at_reward(run: ClaimRun, system: str) -> Outcome:
    """Exact entropy per decision at the first step whose exact reward reaches 0.8, for GRPO with a token mean and `system`."""
    count = run.steps(120)
    plain = find("grpo").algorithm().set({"objective.aggregate": "token_mean"})
    base = run.each(lambda seed: train(plain, COLLAPSING, count, seed))
    ours = run.each(lambda seed: train(system, COLLAPSING, count, seed))
    run.note(f"reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} ({system}).")
    run.note(f"entropy at the end: {mean_entropy(base):.3f} (grpo), {mean_entropy(ours):.3f} ({system}).")
    return compare(
        [_entropy_when(c, 0.8) for c in base], [_entropy_when(c, 0.8) for c in ours], "entropy when the reward reaches 0.8", run
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
    run.note(f"reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (kl-cov).")
    return compare(
        [_entropy_when(c, 0.8) for c in base], [_entropy_when(c, 0.8) for c in ours], "entropy when the reward reaches 0.8", run
    )  # fmt: skip


def _entropy_when(curves: Curves, reward: float) -> float:
    """Entropy at the first step that reaches `reward`; at the last step where none does."""
    step = curves.steps_to(reward)
    return float(curves.entropy[int(step) if np.isfinite(step) else -1])
