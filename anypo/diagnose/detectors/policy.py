"""Is the policy itself healthy? Entropy, drift from the reference, diversity, cliffs."""

from __future__ import annotations

import math

from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence, groups
from anypo.diagnose.health import GROWN, dead
from anypo.diagnose.levers import add, ask, put, scale, swap

SLOWER = scale("update.optimiser.lr", 0.3, "smaller steps")
BONUS = add("objective.regularise", {"part": "entropy", "coefficient": 0.003}, "a small reward for entropy")
HOTTER = scale("generate.temperature", 1.2, "sample hotter", high=1.5)
TIED = add(
    "objective.regularise",
    {"part": "kl", "coefficient": 0.03},
    "tie the policy to where it began",
    {"update.reference": "frozen"},
)
TOO_SHORT = "fewer than 6 steps are recorded"


@detector(
    "entropy_collapse",
    "Entropy collapse",
    room="objective",
    observable="share of the initial policy entropy that is gone (0 while more than 0.3 nats a token are left)",
    limit=(0.8, 0.95),
    why="below a fifth of its entropy a group of 8 is mostly one answer eight times, so what is still wrong is not explored any "
    "more; a task that is solved may be certain",
    levers=(
        put("more room for unlikely tokens to rise (arXiv:2503.14476)", {"objective.trust.high": 0.28}),
        BONUS,
        HOTTER,
        SLOWER,
    ),
    curves=("policy/entropy", "objective/entropy", "reward/mean"),
    live=True,
)
def entropy_collapse(run: Evidence) -> Measured | Missing:
    entropy = run.series("policy/entropy")
    if entropy is None:
        return Missing("the sampler recorded no entropy")
    if len(entropy) < 6:
        return Missing(TOO_SHORT)
    first, last = see.ends(entropy)
    lost = 1 - last / first if first > 0 and last <= 0.3 else 0.0
    excuse = "the task is solved, nothing is left to explore" if run.solved() else ""
    return Measured(lost, f"entropy {first:.3g} → {last:.3g} nats a token", run.late(), excuse)


@detector(
    "entropy_explosion",
    "Entropy explosion",
    room="objective",
    observable="policy entropy at the end over that at the beginning (1 where it does not rise steadily)",
    limit=(1.4, 2.5),
    why="reward sharpens a policy; entropy that grows by half while reward does not means that the update adds noise or pays for "
    "randomness",
    levers=(
        SLOWER,
        scale("objective.regularise.0.coefficient", 0.1, "a tenth of the first regulariser's pull"),
        scale("generate.temperature", 0.8, "sample cooler", low=0.3),
        TIED,
    ),
    curves=("policy/entropy", "objective/entropy", "reward/mean", "update/lr"),
    live=True,
)
def entropy_explosion(run: Evidence) -> Measured | Missing:
    entropy = run.series("policy/entropy")
    if entropy is None:
        return Missing("the sampler recorded no entropy")
    if len(entropy) < 6:
        return Missing(TOO_SHORT)
    first, last = see.ends(entropy)
    grown = last / max(first, 1e-3) if last > 0.05 and see.monotone(entropy.values) > 0.4 else 1.0
    excuse = "the reward rises with it" if _improves(run) else ""
    return Measured(grown, f"entropy {first:.3g} → {last:.3g} nats a token", run.late(), excuse)


@detector(
    "blown_weights",
    "Blown-up weights",
    room="update",
    observable="largest root mean square of the policy's weights over that of the initial ones",
    limit=(GROWN, 100.0),
    why="training moves weights by a fraction of themselves; a tenfold growth comes from steps that are far too long, and what was "
    "learned before is lost with it (at a thousandfold the run stops)",
    levers=(
        scale("update.optimiser.lr", 0.01, "steps a hundred times smaller"),
        put("steps that are cut to length", {"update.max_grad_norm": 1.0}),
    ),
    curves=("update/weight_growth", "update/grad_norm", "policy/entropy"),
    live=True,
)
def blown_weights(run: Evidence) -> Measured | Missing:
    growth = run.series("update/weight_growth")
    if growth is None:
        return Missing("the update does not record how its weights grow")
    most = int(growth.values.argmax())
    return Measured(
        float(growth.values[most]), f"the weights grew {growth.values[most]:.3g}-fold by step {growth.steps[most]:.0f}"
    )


@detector(
    "dead_gradient",
    "A gradient of exactly 0",
    room="update",
    observable="share of the late steps with advantages (rewards differed) whose gradient was exactly 0 or not a number",
    limit=(0.2, 0.5),
    why="rewards that differ pull at a policy that can still move; a gradient of exactly 0 says that it cannot: saturated or ruined "
    "weights (the entropy then often stays at its maximum), or a trust region that lets nothing through",
    levers=(
        scale("update.optimiser.lr", 0.01, "steps a hundred times smaller"),
        ask("go back to a checkpoint from before", "ls {run}/checkpoints"),
    ),
    curves=("update/grad_norm", "update/weight_growth", "policy/entropy"),
    live=True,
)
def dead_gradient(run: Evidence) -> Measured | Missing:
    late = run.metrics[len(run.metrics) * 2 // 3 :]
    found = [still for still in map(dead, late) if still is not None]
    if not found:
        return Missing("no late step with advantages records its gradient")
    share = sum(found) / len(found)
    says = f"{sum(found)} of {len(found)} late steps with advantages had a gradient of 0 or none"
    entropy = run.series("policy/entropy")
    if (
        share > 0
        and entropy is not None
        and len(entropy) > 2
        and entropy.values[-3:].min() >= 0.999 * entropy.values.max()
    ):
        says += f"; the entropy stays at its maximum, {entropy.values[-1]:.3g} nats a token"
    return Measured(share, says, run.late())


def _improves(run: Evidence) -> bool:
    """The reward rises by more than three standard errors of its noise."""
    reward = run.series("reward/mean")
    if reward is None or len(reward) < 6:
        return False
    gain, error = see.rise(reward)
    return gain > 3 * error and gain > 0.1 * abs(run.best)


@detector(
    "kl_drift",
    "Drift from the reference",
    room="objective",
    observable="late median KL to the reference, in nats a token, where the reward has not risen with it",
    limit=(0.1, 0.5),
    why="0.1 nats a token is a tenth of an e-fold of probability for every token written; gaining as much without any reward is "
    "forgetting, not learning",
    levers=(
        scale("objective.regularise.0.coefficient", 5, "a stronger pull to the reference"),
        TIED,
        SLOWER,
    ),
    curves=("objective/kl_ref", "reward/mean"),
    live=True,
)
def kl_drift(run: Evidence) -> Measured | Missing:
    drift = run.series("objective/kl_ref")
    if drift is None:
        return Missing("the run has no reference policy to measure from (update.reference is none or not read)")
    if len(drift) < 6:
        return Missing(TOO_SHORT)
    excuse = "the reward rises for it" if _improves(run) else "the task is solved" if run.solved() else ""
    last = see.level(drift)
    return Measured(last, f"KL to the reference {drift.values[0]:.3g} → {last:.3g} nats a token", (), excuse)


@detector(
    "low_diversity",
    "Near-duplicate rollouts",
    room="generate",
    observable="share of pairs of rollouts in a group that are near-duplicates (nine tenths of their trigrams), over late groups "
    "that are not all right",
    limit=(0.7, 0.9),
    why="if seven pairs in ten agree, a group of 8 holds two or three different attempts; groups that are all right are left out, "
    "because a right answer may well be the same each time",
    levers=(
        HOTTER,
        add("credit.select", {"part": "distinct"}, "train on rollouts that differ"),
        BONUS,
        swap("generate", "entropy_forks", "fork where the policy is unsure", ("max_new", "temperature", "stop")),
        scale("control.samples", 2, "more rollouts a prompt", high=64),
    ),
    curves=("policy/entropy", "rollout/degenerate"),
    live=True,
    text=True,
)
def low_diversity(run: Evidence) -> Measured | Missing:
    found = [group for group in groups(run.late()) if len(group) > 1]
    if not found:
        return Missing("no groups of two or more rollouts are stored")
    open_ = [group for group in found if not all(run.right(row) for row in group)]
    share = see.near_duplicates(open_)
    if math.isnan(share):
        return Measured(0.0, "every late group is all right")
    return Measured(
        share, f"{share:.0%} of the pairs in {len(open_)} unsolved late groups are near-duplicates", open_[0]
    )


@detector(
    "policy_cliff",
    "Policy cliffs",
    room="filter",
    observable="share of revisited prompts with tied best answers whose sure favourite became another at an unchanged reward",
    limit=(0.05, 0.15),
    why="where several answers tie for the best, nothing in the reward holds the policy at one of them, and any small change may "
    "throw it to another; a stable run changes its sure favourite once while it learns, if at all",
    levers=(
        TIED,
        BONUS,
        SLOWER,
        ask(
            "see the tied answers",
            'anypo rollouts {run} "select problem, reward, count(distinct text) answers from rollouts group by 1, 2"',
        ),
    ),
    curves=("reward/mean", "policy/entropy"),
)
def policy_cliff(run: Evidence) -> Measured | Missing:
    share, seen, examples = see.switches(run.rollouts, run.score)
    if seen < 5:
        return Missing(f"{seen} visits to a prompt with tied best answers and a sure favourite (5 are needed)")
    return Measured(share, f"the sure favourite changed in {share:.0%} of {seen} visits at the same reward", examples)
