"""What happens to the length of answers: explosion, truncation, hacking."""

from __future__ import annotations

import math

from anypo.data.records import TRUNCATED
from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence, groups
from anypo.diagnose.levers import add, ask, put, scale

LONGEST = 'anypo rollouts {run} "select step, length, reward, text from rollouts order by length desc limit 10"'


@detector(
    "length_explosion",
    "Length explosion",
    room="generate",
    observable="growth of the answer length beyond that of success: (last / first length) / (last / first success if it rose)",
    limit=(1.5, 3.0),
    why="answers may grow while they get better; at half as many tokens again for the same success the run pays for words",
    levers=(
        put(
            "no advantage from length in the aggregation (arXiv:2503.20783)", {"objective.aggregate": "constant_length"}
        ),
        add("credit.shaping", {"part": "overlong", "limit": 64, "buffer": 16}, "a soft penalty before the limit"),
        scale("generate.max_new", 0.5, "a lower limit", low=4),
        ask("read the longest", LONGEST),
    ),
    curves=("rollout/length", "rollout/truncated", "reward/mean"),
    live=True,
    text=True,
)
def length_explosion(run: Evidence) -> Measured | Missing:
    length = run.series("rollout/length")
    if length is None or len(length) < 6:
        return Missing("fewer than 6 steps with answer lengths are recorded")
    first, last = see.ends(length)
    progress = run.progress()
    better = progress is not None and progress[1] - progress[0] > 0.02 * abs(run.best)
    success = progress[1] / max(progress[0], 1e-3) if progress is not None and better else 1.0
    grown = last / max(first, 1.0) / success if see.monotone(length.values) > 0.4 else 1.0
    return Measured(grown, f"length {first:.1f} → {last:.1f} tokens, success x {success:.2g}", run.late())


@detector(
    "truncation",
    "Cut off by the length limit",
    room="generate",
    observable="share of late rollouts that reached the length limit without being right",
    limit=(0.3, 0.6),
    why="a rollout that was cut off is punished for what it might have become; beyond three in ten the limit, not the task, decides "
    "the advantages",
    levers=(
        scale("generate.max_new", 2, "room to finish"),
        add("filter.survival", {"part": "drop_truncated"}, "do not train on them (overlong filtering)"),
        ask(
            "how they end",
            "anypo rollouts {run} \"select right(text, 80) from rollouts where finish = 'length' limit 10\"",
        ),
    ),
    curves=("rollout/truncated", "rollout/length"),
    live=True,
    text=True,
)
def truncation(run: Evidence) -> Measured | Missing:
    late = run.late()
    if not late:
        cut = run.series("rollout/truncated")
        if cut is None:
            return Missing("finish reasons are not recorded")
        return Measured(see.level(cut), f"{see.level(cut):.0%} of the late rollouts were cut off")
    lost = [row for row in late if row["finish"] == TRUNCATED and not run.right(row)]
    share = len(lost) / len(late)
    return Measured(share, f"{share:.0%} of the late rollouts were cut off before they were right", lost)


@detector(
    "length_hacking",
    "Length hacking",
    room="filter",
    observable="correlation of length and reward inside groups, in the direction in which the length moves (0 where it moves by less "
    "than a fifth)",
    limit=(0.3, 0.6),
    why="when answers move where length is paid and the outcome does not improve, length is what is being optimised; a correlation "
    "of 0.3 explains a tenth of the reward's variance",
    levers=(
        put(
            "no advantage from length in the aggregation (arXiv:2503.20783)", {"objective.aggregate": "constant_length"}
        ),
        put("judge answers against others of their length", {"credit.centre": "length_mean"}),
        ask(
            "which component pays for it",
            'anypo rollouts {run} "select length, rewards from rollouts order by 1 limit 20"',
        ),
        ask("read the longest", LONGEST),
    ),
    curves=("rollout/length", "reward/mean", "accuracy/train"),
    live=True,
    text=True,
)
def length_hacking(run: Evidence) -> Measured | Missing:
    length = run.series("rollout/length")
    late = run.late()
    if length is None or len(length) < 6 or not late:
        return Missing("fewer than 6 steps with rollouts are stored")
    correlation = see.length_correlation(groups(run.rollouts[0]) + groups(late))
    if math.isnan(correlation):
        return Missing("lengths or rewards do not vary inside groups")
    improves = outcome_improves(run)
    if improves is None:
        return Missing("the reward is the outcome itself and no held-out evaluation followed training to check it by")
    first, last = see.ends(length)
    moved = abs(last / max(first, 1e-9) - 1) >= 0.2
    score = correlation * (1 if last > first else -1) if moved else 0.0
    says = f"length {first:.1f} → {last:.1f}, correlation with reward {correlation:+.2f}"
    return Measured(score, says, late, "the outcome improves too" if improves else "")


def outcome_improves(run: Evidence) -> bool | None:
    """Whether right answers became more frequent: on held-out problems, else by the outcome component where the reward has
    others beside it; None when neither is known."""
    if len(run.evaluations) >= 2:
        first, last = run.evaluations[0], run.evaluations[-1]
        return bool(last["score"] > first["score"] + 0.5 * (last["high"] - last["low"]))
    outcome, reward = run.series(f"reward/{run.outcome}"), run.series("reward/mean")
    if (
        outcome is None
        or reward is None
        or len(outcome) != len(reward)
        or abs(outcome.values - reward.values).max() < 1e-9
    ):
        return None
    gain, error = see.rise(outcome)
    return gain > 3 * error and gain > 0.02
