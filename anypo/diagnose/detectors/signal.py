"""Is there a learning signal? Degenerate groups, conflict, sign flips, starvation."""

from __future__ import annotations

import math

from anypo.diagnose import observables as see
from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence, Row, groups
from anypo.diagnose.levers import add, ask, put, scale, swap

REFILL = add(
    "filter.survival",
    {"part": "drop_degenerate"},
    "draw other prompts instead of training on these",
    {"filter.rounds": 3},
)
MORE = scale("control.samples", 2, "more rollouts a prompt, so that one succeeds", high=64)
NO_ROLLOUTS = Missing("no rollouts of groups are stored")


@detector(
    "all_wrong",
    "Groups that are all wrong",
    room="filter",
    observable="share of the late groups whose rollouts all get the same reward and are not all right",
    limit=(0.5, 0.8),
    why="a group without any spread in reward has zero advantage; beyond one half the effective batch is less than half of what "
    "was paid for, beyond four fifths a step of 8 prompts learns from one or two",
    levers=(
        MORE,
        REFILL,
        swap("control", "uncertain_prompts", "prompts of middling difficulty first"),
        scale("generate.temperature", 1.2, "more varied attempts", high=1.5),
        ask(
            "which prompts nobody solves",
            'anypo rollouts {run} "select problem, max(reward) from rollouts group by all"',
        ),
    ),
    curves=("rollout/degenerate", "credit/live_share", "reward/mean"),
    live=True,
    text=True,
)
def all_wrong(run: Evidence) -> Measured | Missing:
    found = _split(run)
    if isinstance(found, Missing):
        return found
    _, wrong, example = found
    return Measured(wrong, f"{wrong:.0%} of the late groups are equally wrong", example)


@detector(
    "all_right",
    "Groups that are all right",
    room="control",
    observable="share of the late groups whose rollouts are all right",
    limit=(0.6, 0.9),
    why="prompts that always succeed cost rollouts and teach nothing; below about one half is the normal state of a task that is "
    "being learned",
    levers=(
        REFILL,
        swap("control", "uncertain_prompts", "prompts of middling difficulty first"),
        scale("control.samples", 0.5, "fewer rollouts a prompt, and harder prompts for the tokens saved", low=2),
    ),
    curves=("rollout/degenerate", "credit/live_share", "reward/mean"),
    live=True,
    text=True,
)
def all_right(run: Evidence) -> Measured | Missing:
    found = _split(run)
    if isinstance(found, Missing):
        return found
    right, _, example = found
    progress = run.progress()
    learned = progress is not None and progress[1] - progress[0] >= 0.1 * run.best and run.solved()
    excuse = "the run itself solved the task; stop here or give it harder problems" if learned else ""
    return Measured(right, f"{right:.0%} of the late groups are all right", example, excuse)


def _split(run: Evidence) -> tuple[float, float, list[Row]] | Missing:
    """Late shares of groups all right and all wrong, and an example of each group. Filters may have removed such groups before
    they were stored; the metric over everything generated then gives the total, and the mean reward says which kind."""
    found = groups(run.late())
    if not any(len(group) > 1 for group in found):
        return NO_ROLLOUTS if not found else Missing("groups have one rollout each")
    right, wrong = see.split_degenerate(found, run.right)
    total = run.series("rollout/degenerate")
    share = see.level(total) if total is not None else right + wrong
    if share > right + wrong + 0.05:
        mean = run.series("reward/mean")
        high = mean is not None and see.level(mean) > 0.5 * run.best
        right, wrong = (share - wrong, wrong) if high else (right, share - right)
    same = [group[0] for group in found if len({row["reward"] for row in group}) == 1]
    return right, wrong, same


@detector(
    "sign_flips",
    "Advantages of uncertain sign",
    room="credit",
    observable="expected share of live advantages whose sign another draw of the group baseline would turn",
    limit=(0.1, 0.15),
    why="the baseline of G rollouts has the standard error sd / sqrt(G); with an exact baseline no sign flips, and for "
    "normal rewards the share is arctan(1 / sqrt(G - 1)) / pi, a tenth at G = 10 (small groups: arXiv:2601.22578)",
    levers=(
        scale("control.samples", 2, "a baseline from more rollouts", high=64),
        put("the median, which one extreme reward cannot move", {"credit.centre": "group_median"}),
    ),
    curves=("credit/advantage_abs", "reward/mean"),
    live=True,
    text=True,
)
def sign_flips(run: Evidence) -> Measured | Missing:
    rewards = [row["reward"] for rows in run.rollouts for row in rows]
    found = groups(run.late())
    share = see.sign_flips(found, min(rewards, default=0.0), max(rewards, default=0.0))
    if math.isnan(share):
        return Missing("no late group has rewards that differ") if found else NO_ROLLOUTS
    size = max(len(group) for group in found)
    inner = [row for row in run.late() if min(rewards) < row["reward"] < max(rewards)]
    return Measured(share, f"{share:.0%} of the advantages may have the wrong sign with groups of up to {size}", inner)


@detector(
    "gradient_conflict",
    "Rollouts that pull against each other",
    room="credit",
    observable="cancellation of advantages between rollouts of a group making the same decision in the same place, relative to "
    "advantages dealt at random",
    limit=(0.85, 0.95),
    why="the same token after the same tokens has the same gradient, so opposite advantages there only add noise; at 1 the reward "
    "does not depend on what was decided, and a learnable one stays well below",
    levers=(
        add("credit.shape", {"part": "conflict_tokens"}, "do not push shared tokens both ways"),
        scale("generate.temperature", 1.2, "rollouts that differ more", high=1.5),
        scale("control.samples", 2, "more rollouts to tell luck from skill", high=64),
        ask("see the gradients themselves", "anypo diagnose {run} --step 1 --attribution"),
    ),
    curves=("update/grad_norm", "credit/conflict_tokens"),
)
def gradient_conflict(run: Evidence) -> Measured | Missing:
    every = groups(row for rows in run.rollouts for row in rows if row["advantage"] is not None and row["tokens"])
    share, decisions = see.conflict(every)
    if math.isnan(share) or decisions < 200:
        return Missing(
            f"{decisions} decisions shared by some rollouts of a group with advantages are stored (200 are needed)"
        )
    says = f"advantages of {decisions} shared decisions cancel {share:.0%} as much as if dealt at random"
    return Measured(share, says, [group[0] for group in every])


@detector(
    "prompt_starvation",
    "Starved prompts",
    room="control",
    observable="1 - distinct prompts met / distinct prompts expected from as many uniform draws",
    limit=(0.3, 0.6),
    why="uniform draws give 0 and a pass in order less than 0; at 0.3 a third of the prompts that should have been met never were, "
    "so the policy is trained on a fraction of the task",
    levers=(
        swap("control", "uniform", "every prompt in its turn"),
        put("never give up on a prompt for good", {"control.explore": 0.2}),
        ask(
            "how often each was drawn",
            'anypo rollouts {run} "select problem, count(*) n from rollouts group by 1 order by n"',
        ),
    ),
    curves=("control/pool", "filter/kept_share"),
    text=True,
)
def prompt_starvation(run: Evidence) -> Measured | Missing:
    problems = run.task.get("problems")
    if not run.visits:
        return NO_ROLLOUTS
    if not isinstance(problems, int) or problems < 2:
        return Missing("the number of training problems is not recorded")
    if len(run.visits) < 10:
        return Missing(f"only {len(run.visits)} prompts were drawn")
    share, distinct = see.starvation(run.visits, problems), len(set(run.visits))
    return Measured(share, f"{distinct} distinct prompts in {len(run.visits)} draws from {problems} problems")
