"""Can the reward be trusted? Hacking signals, verifier disagreement, errors and timeouts."""

from __future__ import annotations

import math

from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence
from anypo.diagnose.levers import add, ask, scale
from anypo.report.headline import gain_interval
from anypo.scoring.units import amount

STOP_EARLIER = scale("update.optimiser.lr", 0.3, "smaller steps: less optimisation of what is measured wrongly")
TIED = add(
    "objective.regularise",
    {"part": "kl", "coefficient": 0.03},
    "stay near the policy that had not learned the trick",
    {"update.reference": "frozen"},
)
READ = ask(
    "read what is rewarded",
    'anypo rollouts {run} "select step, reward, answer, text from rollouts order by step desc limit 20"',
)


@detector(
    "reward_hacking",
    "Reward rises, the outcome does not",
    room="filter",
    observable="rise of the training reward (as a share of its range) less the most the outcome can have risen (95 % interval of "
    "held-out accuracy, or the outcome component)",
    limit=(0.15, 0.35),
    why="both measure the same skill, so they rise together up to noise; a gap of 0.15 beyond the interval is a reward that pays for "
    "something else, or problems learned by heart",
    levers=(
        READ,
        TIED,
        STOP_EARLIER,
        ask(
            "held-out answers before and after",
            'anypo rollouts {run} "select label, text, reward from answers limit 40"',
        ),
    ),
    curves=("reward/mean", "accuracy/train", "objective/kl_ref"),
    live=True,
    text=True,
)
def reward_hacking(run: Evidence) -> Measured | Missing:
    reward = run.series("reward/mean")
    if reward is None or len(reward) < 6:
        return Missing("fewer than 6 steps with rewards are recorded")
    values = [row["reward"] for rows in run.rollouts for row in rows]
    span = (max(values) - min(values)) if values else 1.0
    gain, error = see.rise(reward)
    gained = (gain - 2 * error) / (span or 1.0)
    rises: list[tuple[float, str]] = []
    if len(run.evaluations) >= 2:
        first, last = run.evaluations[0], run.evaluations[-1]
        most = gain_interval(first, last)[1]
        shown = lambda entry: amount(entry["score"], entry["unit"])
        rises.append((most, f"held-out {last['unit']} {shown(first)} → {shown(last)}"))
    outcome = run.series(f"reward/{run.outcome}")
    if outcome is not None and len(outcome) == len(reward) and abs(outcome.values - reward.values).max() > 1e-9:
        change, noise = see.rise(outcome)
        rises.append((change + 2 * noise, f"{run.outcome} {change:+.2g}"))
    if not rises:
        return Missing("the reward is the outcome itself and there are no two held-out evaluations to check it by")
    most, says = min(rises)
    score = gained - max(most, -gained) if gained > 0 else 0.0
    return Measured(score, f"training reward {gain:+.3g} (range {span:.3g}) while {says}", run.late())


@detector(
    "verifier_disagreement",
    "Verdicts that disagree with themselves",
    room="filter",
    observable="share of repeated answers to a prompt that got another verdict than the same answer before",
    limit=(0.02, 0.1),
    why="a verifier is a function: the same answer to the same question must get the same verdict; one flip in fifty is already "
    "visible in the advantages of near-duplicate groups",
    levers=(
        READ,
        ask(
            "answers with several verdicts",
            'anypo rollouts {run} "select problem, text, min(reward), max(reward) from rollouts group by 1, 2 '
            'having min(reward) < max(reward)"',
        ),
        scale("control.samples", 2, "more rollouts average the noise until it is mended", high=64),
    ),
    curves=("reward/mean",),
    text=True,
)
def verifier_disagreement(run: Evidence) -> Measured | Missing:
    rows = [row for step in run.rollouts for row in step]
    share, repeats, examples = see.disagreements(rows, run.score)
    if repeats < 20:
        return Missing(f"only {repeats} answers were given twice to one prompt (20 are needed)")
    return Measured(share, f"{len(examples)} of {repeats} repeated answers got another verdict", examples)


@detector(
    "one_answer_for_all",
    "One text is right for everything",
    room="filter",
    observable="largest share of distinct expected answers for which one and the same text is rewarded",
    limit=(0.75, 0.95),
    why="different questions have different answers, though several may be accepted; a text that is rewarded for three quarters of "
    "the expected answers has found a hole in the verifier",
    levers=(READ, TIED, STOP_EARLIER),
    curves=("reward/mean", "accuracy/train"),
    text=True,
)
def one_answer_for_all(run: Evidence) -> Measured | Missing:
    late = run.late()
    share, answers, text = see.one_answer_for_all(late, run.right)
    if answers < 5:
        return Missing(f"rewarded rollouts with {answers} distinct expected answers are stored (5 are needed)")
    shown = [row for row in late if row["text"] == text]
    return Measured(share, f"{text[:40]!r} is rewarded for {share:.0%} of {answers} expected answers", shown)


@detector(
    "verifier_errors",
    "Verifier errors and timeouts",
    room="filter",
    observable="share of late rollouts whose verifier or environment broke or ran out of time",
    limit=(0.01, 0.1),
    why="a broken verdict counts as wrong and punishes what may be right; one in a hundred is as much as a few hundred rollouts "
    "can show, one in ten changes what is learned",
    levers=(
        ask(
            "why they broke",
            "anypo rollouts {run} \"select failed, count(*) from rollouts where finish = 'failed' group by 1\"",
        ),
        scale("control.samples", 2, "more rollouts until it is mended", high=64),
    ),
    curves=("rollout/failed",),
    live=True,
)
def verifier_errors(run: Evidence) -> Measured | Missing:
    failed = run.series("rollout/failed")
    if failed is None:
        return Missing("failures are not recorded")
    share = max(see.level(failed), float(failed.values[-max(1, len(failed) // 3) :].mean()))
    broken = [row for row in run.late() if row["failed"]]
    late = sum("time" in row["failed"].lower() for row in broken)
    kinds = f", {late / len(broken):.0%} of them timeouts, the first: {broken[0]['failed'][:80]}" if broken else ""
    return Measured(
        share if math.isfinite(share) else 0.0, f"{share:.1%} of the late rollouts broke the verifier{kinds}", broken
    )
