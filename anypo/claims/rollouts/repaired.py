"""Claims of `anypo.systems.rollouts.repaired`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds import repairs
from anypo.claims.beds.exact import Testbed, finals, mean, mean_area, mean_final
from anypo.claims.statistics import paired_interval

STEPWISE = (
    "an enumerable policy (answers of five letters, two of four right at every place) and programs: a judge of steps that is told "
    "the truth, a teacher that knows one right answer and errs in one step of twenty"
)
CHAINS = Testbed(vocabulary=5, horizon=5, prompts=4, batch=4, lr=0.1, task=repairs.chains)


def _played(judge: str, **more: Any) -> Mapping[str, Any]:
    home = "anypo.claims.beds.repairs"
    models = [{"role": "prm", "model": f"{home}:{judge}"}, {"role": "teacher", "model": f"{home}:teacher"}]
    return {"generate.delimiter": "", "generate.faults.question": repairs.QUESTION, "models": models, **more}


@claim(
    "scope-rlvr",
    published="46.6 % on average on mathematics (best of those compared), 53.4 % out of distribution, diversity 13.5 % higher",
    seconds=100,
    seeds=6,
    stand_in=STEPWISE,
)
def scope(run: ClaimRun) -> Outcome:
    """Wrong answers finished by a teacher from their first wrong step: exact reward, mean over 60 steps, against GRPO with as many
    rollouts of the policy. Controls: nothing of the answer is kept, so that the teacher's whole one takes its place; the place of the
    cut by lot. Notes: judges that are wrong about one and three steps in ten; how many different right answers eight rollouts hold at
    the end."""
    steps = run.steps(60)
    train = lambda changes: finals("scope-rlvr", CHAINS.replace(set=changes), steps, run.seeds)
    base, ours = finals("grpo", CHAINS, steps, run.seeds), train(_played("judge"))
    whole = train(_played("judge_first", **{"generate.floor": 0.0}))
    lot = train(_played("judge_by_lot"))
    for label, judge in {"one": "judge_10", "three": "judge_30"}.items():
        run.note(f"a judge that is wrong about {label} in ten: {mean_area(train(_played(judge))):.3f}.")
    kinds = {label: [repairs.distinct_right(c) for c in curves] for label, curves in _labelled(base, ours, whole)}
    run.note(
        "different right answers in eight rollouts at the end: "
        + ", ".join(f"{label} {mean(values):.2f}" for label, values in kinds.items())
        + "."
    )
    gains = [o - w for o, w in zip(kinds["ours"], kinds["whole answers"], strict=True)]
    run.note("more of them than with whole answers: {:.2f} [{:.2f}, {:.2f}].".format(mean(gains), *paired_interval(gains)))
    run.note(
        ", ".join(f"{label}: {mean_final(curves):.3f}" for label, curves in _labelled(base, ours, whole)) + " at the end."
    )
    return compare(
        [c.area for c in base], [c.area for c in ours], "exact reward, mean over training", run, least=0.1,
        controls={"whole answers": [c.area for c in whole], "cut by lot": [c.area for c in lot]},
        premise=fails([c.area < 0.5 for c in base], "GRPO's mean over training stays below 0.5"),
    )  # fmt: skip


def _labelled(base: Any, ours: Any, whole: Any) -> list[tuple[str, Any]]:
    return [("GRPO", base), ("ours", ours), ("whole answers", whole)]
