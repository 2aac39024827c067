"""Claims of `anypo.systems.rollouts.repaired`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds import repairs
from anypo.claims.beds.exact import Testbed, finals, mean, mean_area, mean_final
from anypo.claims.beds.words import TextTask, greedy, question, warm
from anypo.claims.statistics import paired_interval
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem

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
    run.note(
        "more of them than with whole answers: {:.2f} [{:.2f}, {:.2f}].".format(mean(gains), *paired_interval(gains))
    )
    run.note(
        ", ".join(f"{label}: {mean_final(curves):.3f}" for label, curves in _labelled(base, ours, whole))
        + " at the end."
    )
    return compare(
        [c.area for c in base], [c.area for c in ours], "exact reward, mean over training", run, least=0.1,
        controls={"whole answers": [c.area for c in whole], "cut by lot": [c.area for c in lot]},
        premise=fails([c.area < 0.5 for c in base], "GRPO's mean over training stays below 0.5"),
    )  # fmt: skip


def _labelled(base: Any, ours: Any, whole: Any) -> list[tuple[str, Any]]:
    return [("GRPO", base), ("ours", ours), ("whole answers", whole)]


# -- Cog-Rethinker -----------------------------------------------------------------------------------------------------------------

PARTS, AGAIN = "D", "R"
"""How a character model is asked to split a sum, and to revise an answer to it."""

LEARNERS: Mapping[str, Any] = {
    "control.prompts": 8, "control.samples": 4, "generate.max_new": 6, "update.optimiser.lr": 3e-4,
    "update.minibatches_per_epoch": 4, "credit.shaping": [],
}  # fmt: skip


@claim(
    "cog-rethinker",
    published="better accuracy in mathematics and faster convergence than DAPO for weak base models, by prompts it throws away",
    base="dapo",
    seconds=240,
    seeds=3,
    stand_in="a character model that adds two digits and, asked to, three in two steps, but guesses when asked for three at once",
)
def cog_rethinker(run: ClaimRun) -> Outcome:
    """Sums of three digits: accuracy on unseen ones, asked plainly, mean over the last third of 5000 rollouts (of all stages), against
    DAPO with as many. Control: the same stages that ask plainly again, so that only luck at further tries is imitated. Notes: share of
    prompts that teach, with how many rollouts each; length of answers."""
    rows = run.each(lambda seed: _sums(seed, run.steps(5000), run.steps(450)))
    for place, label in enumerate(("DAPO", "ours", "asked plainly again")):
        taught, length = (mean(row[place][k] for row in rows) for k in (1, 2))
        run.note(
            f"{label}: {taught:.3f} prompts that teach per ten rollouts, answers of {length:.1f} characters at the end."
        )
    base, ours, plain = ([row[place][0] for row in rows] for place in range(3))
    return compare(
        base, ours, "accuracy on unseen sums", run, least=0.1, controls={"asked plainly again": plain},
        premise=fails([b < 0.5 for b in base], "DAPO stays below 0.5"),
    )  # fmt: skip


def _sums(seed: int, budget: int, warm_up: int) -> list[tuple[float, float, float]]:
    """Accuracy, prompts that teach per ten rollouts and mean length, under DAPO, Cog-Rethinker and the control."""
    rng = np.random.default_rng(seed)
    triples = rng.permutation([(a, b, c) for a in range(1, 8) for b in range(1, 8) for c in range(1, 8)]).tolist()
    task = TextTask(tuple(question(_asked(*t), str(sum(t))) for t in triples), _last_number)
    examples = []
    for _ in range(1200):
        a, b, c = rng.integers(1, 8, 3).tolist()
        parts, guess, wrong = f"{a + b};{a + b + c}", *(str(n) for n in rng.integers(3, 22, 2))
        examples += [
            (_asked(a, b, c), guess),
            (PARTS + _asked(a, b, c), parts),
            (f"{AGAIN}{wrong},{_asked(a, b, c)}", parts),
        ]
    copy = warm(examples, warm_up, seed)
    ways = {"generate.guides.template": PARTS + "{prompt}", "generate.guides.reflection": AGAIN + "{wrong},{prompt}"}
    plain = {"generate.guides.template": "{prompt}", "generate.guides.reflection": "{prompt}"}
    arms: list[tuple[str, Mapping[str, Any]]] = [("dapo", {}), ("cog-rethinker", ways), ("cog-rethinker", plain)]
    return [_learned(name, changes, task, copy(), budget, seed) for name, changes in arms]


def _learned(
    name: str, changes: Mapping[str, Any], task: TextTask, policy: Any, budget: int, seed: int
) -> tuple[float, float, float]:
    """What came of `budget` rollouts: mean accuracy over four looks in the last third of them, and the rest of `_sums`."""
    world = World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]
    trainer = Trainer(find(name).algorithm().set({**LEARNERS, **changes}), world, seed, 1000)
    unseen = [task.heldout(n) for n in range(task.n_heldout)]
    looks = [budget * share for share in (2 / 3, 7 / 9, 8 / 9, 1)]
    made, taught, found, length = 0, 0, [], 0.0
    while made < budget:
        trainer.step()
        made += sum(len(group.trajectories) for group in trainer.producer.fresh)
        taught += len(trainer.producer.kept)
        while looks and made >= looks[0]:
            said = greedy(policy, [p.messages[0]["content"] for p in unseen], 6)
            found.append(mean(_last_number(p, text) for p, text in zip(unseen, said)))
            length = mean(len(text) for text in said)
            looks.pop(0)
    return mean(found), 10 * taught / made, length


def _asked(a: int, b: int, c: int) -> str:
    return f"{a}+{b}+{c}="


def _last_number(problem: Problem, text: str) -> float:
    numbers = re.findall(r"\d+", text)
    return float(bool(numbers) and numbers[-1] == problem.answer)


# -- R3L ---------------------------------------------------------------------------------------------------------------------------


@claim(
    "r3l",
    published="5 to 52 % relative improvement over baselines on agents' and reasoning tasks",
    seconds=200,
    seeds=4,
    stand_in="an enumerable policy that says a letter a turn and copies the letters it is shown; a program that reads the attempt and "
    "finds the turn that went wrong four times in five writes the reports, which are then not trained",
)
def r3l(run: ClaimRun) -> Outcome:
    """Episodes of five turns, paid for how far they came before the first wrong one: exact reward, mean over 40 steps, against GRPO
    with as many rollouts. Controls: the same advantage and loss on eight plain rollouts; reports that name a turn by lot. Notes: what
    the two attempts share trained like the rest, which pivotal credit is to better; tokens."""
    steps = run.steps(40)
    played = lambda judge: {
        **repairs.REPORTED,
        "models": [{"role": "reflector", "model": f"anypo.claims.beds.repairs:{judge}"}],
    }
    train = lambda name, changes: finals(name, repairs.WALKS.replace(set=changes), steps, run.seeds)
    turns = {"generate.max_new": 1, "generate.turns": repairs.LENGTH}
    base, ours = train("grpo", turns), train("r3l", played("reflector"))
    plain = train("r3l", {"generate": {"part": "independent", "max_new": 1, "turns": repairs.LENGTH}})
    lot = train("r3l", played("reflector_by_lot"))
    whole = train("r3l", {**played("reflector"), "generate.pivotal": False})
    run.note(f"with what they share trained, too: {mean_area(whole):.3f} (ours {mean_area(ours):.3f}).")
    spent = {"GRPO": base, "ours": ours, "plain rollouts": plain}
    tokens = {label: mean(c.metric("tokens/generated").mean() for c in curves) for label, curves in spent.items()}
    run.note("tokens a step: " + ", ".join(f"{label} {count:.0f}" for label, count in tokens.items()) + ".")
    return compare(
        [c.area for c in base], [c.area for c in ours], "exact reward, mean over training", run, least=0.05,
        controls={"plain rollouts": [c.area for c in plain], "reports by lot": [c.area for c in lot]},
        premise=fails([c.area < 0.5 for c in base], "GRPO's mean over training stays below 0.5"),
    )  # fmt: skip
