"""Does the method do anything that its base would not?"""

from __future__ import annotations

from anypo.diagnose.detector import Measured, Missing, detector
from anypo.diagnose.evidence import Evidence
from anypo.diagnose.levers import put
from anypo.run.beside import sentence, standing
from anypo.systems import methods


@detector(
    "inert",
    "The method is its base",
    room="objective",
    observable="share of the steps in which every room did what the system's base would have done with the same data",
    limit=(0.5, 0.999),
    why="a ratio is 1 on fresh data and one update, where no trust region acts, and a window longer than every answer cuts none: who "
    "chose the method gets its base. In half of the steps that is a question of settings; in all of them the method was not run",
    levers=(
        put("several updates on one batch, so that ratios leave 1", {"update.minibatches_per_epoch": 4}),
        put("older rollouts beside the fresh ones", {"replay": "buffer"}),
    ),
    curves=("base/coefficients", "base/advantages", "base/kept", "base/update"),
    live=True,
)
def inert(run: Evidence) -> Measured | Missing:
    found = standing(run.metrics)
    if found is None:
        return Missing("the run was not held against its base (--no-beside)")
    if not found.steps:
        return Missing(sentence(found))
    if not found.learned:
        return Missing("no step moved any weight, in the run or its base")
    name = run.algorithm.name if run.algorithm is not None else ""
    entry = methods().get(name)
    cheaper = entry is not None and entry.rooms() <= {"engine"}
    excuse = f"{name} is {found.name}, computed in another way" if cheaper else ""
    return Measured(found.same / found.steps, sentence(found).rstrip("."), (), excuse)
